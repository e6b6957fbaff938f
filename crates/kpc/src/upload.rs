//! The body of an HTTP request on its way in.
//!
//! Most clients write all of their request before they read anything. A gateway that answers and hangs up meanwhile
//! makes their writing fail, and the answer is lost with it: so what is refused is read to its end first, within bounds.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use crate::failure::Failure;
use crate::memory::{Memory, Taken};
use crate::relay::{PayloadLimit, too_large};

/// What is read of a refused body, in bytes and time; a client that sends more may miss the answer.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// A body that may have been read, or not.
pub(crate) struct Upload {
    body: Body,
    /// What the client says that it will send, in bytes.
    length: Option<usize>,
    /// Whether the client is sending: it neither waits to be asked (`Expect: 100-continue`) nor has used up its time.
    is_coming: bool,
}

impl Upload {
    pub(crate) fn new(headers: &HeaderMap, body: Body) -> Self {
        let length = headers.get(header::CONTENT_LENGTH);
        Self {
            body,
            length: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            is_coming: !headers.contains_key(header::EXPECT),
        }
    }

    /// Reads the body, up to the limit. What is kept of it is taken from the memory for payloads.
    ///
    /// # Errors
    /// 413 over the limit, at once if the client has told the length; 408 when it is not here by the deadline; 400 when
    /// it cannot be read; 503 when there is no memory to keep it in.
    pub(crate) async fn read(
        &mut self,
        limit: PayloadLimit,
        memory: &Memory,
        deadline: Instant,
    ) -> Result<(Bytes, Taken), Failure> {
        if self.length.is_some_and(|length| length > limit.bytes) {
            return Err(too_large(self.length, limit));
        }
        self.is_coming = true;
        match timeout_at(deadline, collect(&mut self.body, limit, memory)).await {
            Ok(read) => read,
            Err(_) => {
                self.is_coming = false;
                Err(Failure::refused(408, "the body did not come in time"))
            }
        }
    }

    /// Reads what is left and throws it away, so that the client comes to read the answer.
    pub(crate) async fn discard(self) {
        self.discard_within(DISCARD_BYTES_MAX, DISCARD_TIME_MAX).await;
    }

    async fn discard_within(mut self, bytes_max: usize, time_max: Duration) {
        if !self.is_coming {
            return;
        }
        let discarding = async {
            let mut left = bytes_max;
            while let Some(Ok(frame)) = self.body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(length) else { return };
                left = rest;
            }
        };
        // A client that takes longer is not waited for; it may still read in time.
        let _ = timeout(time_max, discarding).await;
    }
}

async fn collect(body: &mut Body, limit: PayloadLimit, memory: &Memory) -> Result<(Bytes, Taken), Failure> {
    let (mut whole, mut taken) = (Bytes::new(), Taken::default());
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::refused(400, "the body could not be read"))?;
        let Ok(piece) = frame.into_data() else { continue };
        if whole.len() + pieces.len() + piece.len() > limit.bytes {
            return Err(too_large(None, limit));
        }
        taken.add(memory.take(piece.len())?);
        // Most bodies come in one piece, and are not copied.
        if whole.is_empty() && pieces.is_empty() {
            whole = piece;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&piece);
        }
    }
    Ok((if pieces.is_empty() { whole } else { pieces.into() }, taken))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::HeaderValue;
    use futures::StreamExt as _;

    use super::*;

    const LIMIT: PayloadLimit = PayloadLimit { bytes: 5, key: "kpc.limits.payload_bytes" };

    fn memory() -> Memory {
        Memory::new(100)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// A body of chunks, and how many of them have been read.
    fn chunks(count: usize, bytes: usize) -> (Body, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let stream = futures::stream::iter(0..count).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Bytes::from(vec![b'x'; bytes]))
        });
        (Body::from_stream(stream), read)
    }

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit() {
        let mut upload = Upload::new(&HeaderMap::new(), Body::from("12345"));
        assert_eq!(upload.read(LIMIT, &memory(), later()).await.unwrap().0, "12345");
        let mut upload = Upload::new(&HeaderMap::new(), Body::from("123456"));
        assert_eq!(upload.read(LIMIT, &memory(), later()).await.unwrap_err().status, 413);
        let mut upload = Upload::new(&headers(header::CONTENT_LENGTH, "6"), Body::empty());
        assert_eq!(upload.read(LIMIT, &memory(), later()).await.unwrap_err().status, 413);
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_and_takes_memory_while_it_is_kept() {
        let limit = PayloadLimit { bytes: 30, ..LIMIT };
        let memory = Memory::new(40);
        let mut upload = Upload::new(&HeaderMap::new(), chunks(10, 3).0);
        let (body, taken) = upload.read(limit, &memory, later()).await.unwrap();
        assert_eq!(body, "x".repeat(30));
        let mut upload = Upload::new(&HeaderMap::new(), chunks(10, 3).0);
        assert_eq!(upload.read(limit, &memory, later()).await.unwrap_err().status, 503);
        drop(taken);
        let mut upload = Upload::new(&HeaderMap::new(), chunks(10, 3).0);
        assert!(upload.read(limit, &memory, later()).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_refused_is_read_to_its_end() {
        let (body, read) = chunks(10, 3);
        let mut upload = Upload::new(&headers(header::CONTENT_LENGTH, "30"), body);
        assert_eq!(upload.read(LIMIT, &memory(), later()).await.unwrap_err().status, 413);
        assert_eq!(read.load(Ordering::SeqCst), 0);
        upload.discard().await;
        assert_eq!(read.load(Ordering::SeqCst), 10);
        // Without a length it is known only on the way that there is too much.
        let (body, read) = chunks(10, 3);
        let mut upload = Upload::new(&HeaderMap::new(), body);
        assert_eq!(upload.read(LIMIT, &memory(), later()).await.unwrap_err().status, 413);
        upload.discard().await;
        assert_eq!(read.load(Ordering::SeqCst), 10);
    }

    #[tokio::test]
    async fn what_is_read_in_vain_has_bounds() {
        let (body, read) = chunks(100, 1024 * 1024);
        Upload::new(&HeaderMap::new(), body).discard().await;
        assert_eq!(read.load(Ordering::SeqCst), 17);
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
        let upload = Upload::new(&HeaderMap::new(), endless);
        upload.discard_within(DISCARD_BYTES_MAX, Duration::from_millis(1)).await;
    }

    #[tokio::test]
    async fn a_client_that_waits_to_be_asked_or_was_too_slow_is_answered_at_once() {
        let (body, read) = chunks(10, 3);
        Upload::new(&headers(header::EXPECT, "100-continue"), body).discard().await;
        assert_eq!(read.load(Ordering::SeqCst), 0);
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
        let mut upload = Upload::new(&HeaderMap::new(), endless);
        let deadline = Instant::now() + Duration::from_millis(1);
        assert_eq!(upload.read(LIMIT, &memory(), deadline).await.unwrap_err().status, 408);
        // With more time than a test has.
        let discarding = upload.discard_within(DISCARD_BYTES_MAX, Duration::from_secs(3_600));
        timeout(Duration::from_secs(20), discarding).await.unwrap();
    }
}
