//! Waiting for something without a fixed sleep.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `look` again and again until it gives something, and returns that.
///
/// # Panics
/// When `within` has passed, with `what` in the message. A look that hangs is cut off then, too.
pub async fn eventually<T>(what: &str, within: Duration, look: impl AsyncFnMut() -> Option<T>) -> T {
    poll(within, look).await.unwrap_or_else(|| panic!("waited {within:?} in vain for: {what}"))
}

/// As [`eventually`], but `None` when the time has passed.
pub(crate) async fn poll<T>(within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = timeout_at(deadline, look()).await.ok()? {
            return Some(found);
        }
        let next = Instant::now() + INTERVAL;
        if next > deadline {
            return None;
        }
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_what_the_first_look_with_a_result_gave() {
        let mut looks = 0;
        let found = eventually("the third look", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for: rain")]
    async fn it_gives_up_when_the_time_has_passed() {
        eventually("rain", Duration::from_millis(30), async || None::<()>).await;
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for: an answer")]
    async fn a_look_that_hangs_is_cut_off() {
        eventually("an answer", Duration::from_millis(30), async || {
            std::future::pending::<Option<()>>().await
        })
        .await;
    }
}
