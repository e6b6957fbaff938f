//! What a caller who invokes commands gives.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use rest::{Error, Parameters};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::domain::{Idempotency, Lane, Payload, Ttl};

/// The caller's key of a request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;
const MS_PER_HOUR: u64 = 3_600_000;

/// The parameters of an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rest) struct Request {
    pub(in crate::rest) await_for: Duration,
    pub(in crate::rest) ttl: Ttl,
    /// As the caller gave it.
    pub(in crate::rest) ttl_ms: Option<u64>,
}

impl Request {
    pub(in crate::rest) fn read(parameters: &Parameters, config: &Config) -> Result<Self, Error> {
        let ttl_ms = ttl_ms(parameters)?;
        let ttl = match ttl_ms.unwrap_or(config.command_ttl_ms) {
            0 => Ttl::Once,
            ms => Ttl::For(Duration::from_millis(ms)),
        };
        Ok(Self { await_for: await_for(parameters, config)?, ttl, ttl_ms })
    }

    /// The caller's key, with what it stands for.
    pub(in crate::rest) fn idempotency(
        &self,
        headers: &HeaderMap,
        lane: &Lane,
        payload: Option<&Payload>,
    ) -> Result<Option<Idempotency>, Error> {
        let Some(key) = idempotency_key(headers)? else { return Ok(None) };
        let ttl = self.ttl_ms.map_or_else(|| "default".to_owned(), |ms| ms.to_string());
        let (kind, bytes) = parts_of(payload);
        let parts = [
            lane.endpoint_id.as_str().as_bytes(),
            lane.command_type.as_str().as_bytes(),
            ttl.as_bytes(),
            kind,
            bytes,
        ];
        Ok(Some(Idempotency { key, digest: digest(&parts) }))
    }
}

/// Of which kind a payload is, and its bytes.
pub(in crate::rest) fn parts_of(payload: Option<&Payload>) -> (&[u8], &[u8]) {
    match payload {
        None => (b"none", b""),
        Some(Payload::Json(bytes)) => (b"json", bytes),
        Some(Payload::Text(bytes)) => (b"text", bytes),
    }
}

/// What stands for a request that is made of these parts.
pub(in crate::rest) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        // With its length, so that nothing moves from one part to the next unseen.
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// The caller's key as the ledger knows it, from the header `Idempotency-Key`.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), rest) = (given.next(), given.next()) else { return Ok(None) };
    let is_visible = key.as_bytes().iter().all(u8::is_ascii_graphic);
    match key.to_str() {
        Ok(key) if rest.is_none() && is_visible && (1..=KEY_BYTES_MAX).contains(&key.len()) => {
            Ok(Some(format!("rest:{key}")))
        }
        _ => Err(Error::bad_request(format!(
            "Idempotency-Key must be given once, with 1 to {KEY_BYTES_MAX} visible ASCII characters"
        ))),
    }
}

fn await_for(parameters: &Parameters, config: &Config) -> Result<Duration, Error> {
    let max = u64::from(config.await_timeout_max_s);
    let (new, old) = (number(parameters, "awaitTimeout")?, number(parameters, "waitTimeout")?);
    let seconds = agreed("awaitTimeout", new, "waitTimeout", old)?;
    let seconds = seconds.unwrap_or_else(|| u64::from(config.await_timeout_s).min(max));
    if seconds > max {
        return Err(Error::bad_request(format!(
            "awaitTimeout may be {max} s (cex.await_timeout_max_s); ask for less, or follow the command at its Location"
        )));
    }
    Ok(Duration::from_secs(seconds))
}

fn ttl_ms(parameters: &Parameters) -> Result<Option<u64>, Error> {
    let hours = number(parameters, "commandRetentionTtl")?;
    let old = hours.map(|hours| hours.saturating_mul(MS_PER_HOUR));
    agreed("commandTtl", number(parameters, "commandTtl")?, "commandRetentionTtl", old)
}

fn number(parameters: &Parameters, name: &'static str) -> Result<Option<u64>, Error> {
    let read = |text: &str| {
        text.parse().map_err(|_| Error::bad_request(format!("{name} must be an integer from 0")))
    };
    parameters.text(name)?.map(read).transpose()
}

/// What two parameters for the same thing say together.
fn agreed(
    name: &'static str,
    value: Option<u64>,
    old_name: &'static str,
    old: Option<u64>,
) -> Result<Option<u64>, Error> {
    match (value, old) {
        (Some(value), Some(old)) if value != old => Err(Error::bad_request(format!(
            "{name} and {old_name} are the same thing and differ; give {name} alone"
        ))),
        _ => Ok(value.or(old)),
    }
}

/// The body of a request that invokes.
pub(in crate::rest) fn payload(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Option<Payload>, Error> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Error::too_large("the body is longer than http.body_bytes_max; send less")
        }
        status => Error::new(status, rejection.body_text()),
    })?;
    if body.is_empty() {
        return Ok(None);
    }
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let (media_type, charset) = media_type(given.unwrap_or_default());
    match (media_type.as_str(), charset.as_deref()) {
        (_, Some(charset)) if !matches!(charset, "utf-8" | "utf8" | "us-ascii") => {
            Err(unsupported(&format!("the charset {charset} is not known: send UTF-8")))
        }
        ("application/json", _) => {
            serde_json::from_slice::<Value>(&body)
                .map_err(|error| Error::bad_request(format!("the body is not JSON: {error}")))?;
            Ok(Some(Payload::Json(body)))
        }
        ("text/plain", _) => {
            std::str::from_utf8(&body).map_err(|_| Error::bad_request("the body is not UTF-8"))?;
            Ok(Some(Payload::Text(body)))
        }
        _ => Err(unsupported("send the payload with Content-Type: application/json or text/plain")),
    }
}

/// A media type, and its charset if it names one.
pub(in crate::rest) fn media_type(content_type: &str) -> (String, Option<String>) {
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    (media_type, parts.find_map(charset))
}

/// The charset, if this parameter of a content type is one.
fn charset(parameter: &str) -> Option<String> {
    let (name, value) = parameter.split_once('=')?;
    let is_charset = name.trim().eq_ignore_ascii_case("charset");
    is_charset.then(|| value.trim().trim_matches('"').to_ascii_lowercase())
}

fn unsupported(message: &str) -> Error {
    Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use ids::{CommandType, EndpointId, TenantId};

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Request, String> {
        let parameters = pairs.iter().copied().collect();
        Request::read(&parameters, &Config::default()).map_err(|error| error.message().to_owned())
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )])
    }

    #[test]
    fn times_have_new_names_old_names_and_defaults() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        for (pairs, await_for, ttl) in [
            (&[][..], s(5), Ttl::For(s(60))),
            (&[("awaitTimeout", "0"), ("commandTtl", "1")], s(0), Ttl::For(ms(1))),
            (&[("waitTimeout", "7"), ("commandRetentionTtl", "2")], s(7), Ttl::For(s(7_200))),
            (&[("awaitTimeout", "60"), ("waitTimeout", "60"), ("commandTtl", "0")], s(60), Ttl::Once),
            (&[("commandTtl", "3600000"), ("commandRetentionTtl", "1")], s(5), Ttl::For(s(3_600))),
        ] {
            let request = read(pairs).unwrap();
            assert_eq!((request.await_for, request.ttl), (await_for, ttl), "{pairs:?}");
        }
        for (pairs, reason) in [
            (&[("awaitTimeout", "61")][..], "cex.await_timeout_max_s"),
            (&[("awaitTimeout", "-1")], "awaitTimeout must be"),
            (&[("commandTtl", "soon")], "commandTtl must be"),
            (&[("awaitTimeout", "5"), ("waitTimeout", "6")], "awaitTimeout and waitTimeout"),
            (&[("commandTtl", "1"), ("commandRetentionTtl", "1")], "commandTtl and commandRetentionTtl"),
        ] {
            let error = read(pairs).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_payload_is_json_or_text() {
        let taken = |content_type: &str, body: &'static [u8]| {
            payload(&with("content-type", content_type), Ok(Bytes::from_static(body)))
        };
        for json in [&b"{\"a\":[1]}"[..], b"\"done\"", b"null", b" 7 "] {
            let json_taken = taken("application/json; charset=UTF-8", json).unwrap();
            assert_eq!(json_taken, Some(Payload::Json(Bytes::from_static(json))));
        }
        assert_eq!(taken("Text/Plain", b"on").unwrap(), Some(Payload::Text(Bytes::from_static(b"on"))));
        assert_eq!(payload(&HeaderMap::new(), Ok(Bytes::new())).unwrap(), None);
        for (content_type, body, status) in [
            ("application/json", &b"{a}"[..], 400),
            ("application/json", b"\"\xff\"", 400),
            ("text/plain", b"\xff", 400),
            ("text/plain; charset=latin1", b"a", 415),
            ("application/x-www-form-urlencoded", b"a", 415),
        ] {
            assert_eq!(taken(content_type, body).unwrap_err().status().as_u16(), status, "{content_type}");
        }
        let deep = [b'['; 1_000];
        assert_eq!(taken("application/json", Box::leak(Box::new(deep))).unwrap_err().status().as_u16(), 400);
    }

    #[test]
    fn a_key_stands_for_one_request() {
        let lane = Lane {
            tenant: TenantId::parse("acme").unwrap(),
            endpoint_id: EndpointId::parse("e1").unwrap(),
            command_type: CommandType::parse("reboot").unwrap(),
        };
        let headers = with("idempotency-key", "order-7");
        let digest = |pairs: &[(&str, &str)], payload: Option<Payload>| {
            let idempotency = read(pairs).unwrap().idempotency(&headers, &lane, payload.as_ref());
            let Idempotency { key, digest } = idempotency.unwrap().unwrap();
            assert_eq!(key, "rest:order-7");
            digest
        };
        let json = |text: &'static str| Some(Payload::Json(Bytes::from_static(text.as_bytes())));
        let first = digest(&[("awaitTimeout", "0")], json("1"));
        assert_eq!(first, digest(&[], json("1")), "how long the caller waits does not matter");
        let text = Some(Payload::Text(Bytes::from_static(b"1")));
        for other in [digest(&[], json("2")), digest(&[], None), digest(&[], text)] {
            assert_ne!(first, other);
        }
        assert_ne!(first, digest(&[("commandTtl", "60001")], json("1")));
        for wrong in ["", "a b", "\u{e4}", &"k".repeat(256)] {
            assert!(idempotency_key(&with("idempotency-key", wrong)).is_err(), "{wrong}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }
}
