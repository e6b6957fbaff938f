//! Access tokens that the service signs: JWTs (RFC 7519) with ES256.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rest::Role;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::Grants;

/// Whom the tokens are for.
pub(crate) const AUDIENCE: &str = "bandar";
/// What clocks may differ by.
pub(crate) const LEEWAY_S: u64 = 60;
/// The only algorithm of own tokens.
pub(crate) const ALGORITHM: Algorithm = Algorithm::ES256;

/// What kind of subject a token speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum SubjectKind {
    #[serde(rename = "user")]
    User,
    #[serde(rename = "api-key")]
    ApiKey,
}

/// What a token says. Tenant, name, role and grants are for those who read it; what counts is in the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    /// The id of the user or API key.
    pub(crate) sub: String,
    pub(crate) aud: String,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) jti: Uuid,
    pub(crate) typ: SubjectKind,
    pub(crate) tenant: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Role>,
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub(crate) grants: Grants,
    /// The version of the user's tokens; an older one was made useless.
    pub(crate) ver: i32,
}

/// Signs claims.
pub(crate) fn sign(
    claims: &Claims,
    kid: &str,
    key: &EncodingKey,
) -> Result<String, jsonwebtoken::errors::Error> {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(ALGORITHM) };
    jsonwebtoken::encode(&header, claims, key)
}

/// Reads a token and checks signature, algorithm, issuer, audience and times.
pub(crate) fn verify(
    token: &str,
    issuer: &str,
    key: &DecodingKey,
) -> Result<Claims, jsonwebtoken::errors::Error> {
    let validation = validation(ALGORITHM, issuer, AUDIENCE);
    jsonwebtoken::decode(token, key, &validation).map(|token| token.claims)
}

/// What every token is held to, whoever signed it.
pub(crate) fn validation(algorithm: Algorithm, issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation
}

/// What a token says about itself before anything is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unverified {
    /// None: not one that we know; above all `none`.
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) kid: Option<String>,
    pub(crate) issuer: Option<String>,
}

#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct RawClaims {
    iss: Option<String>,
}

/// Reads what is needed to find the key; none when the text is no JWT at all.
pub(crate) fn peek(token: &str) -> Option<Unverified> {
    let mut parts = token.split('.');
    let (header, claims) = (parts.next()?, parts.next()?);
    parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let header: RawHeader = read_part(header)?;
    let issuer = read_part::<RawClaims>(claims).and_then(|claims| claims.iss);
    Some(Unverified { algorithm: header.alg.parse().ok(), kid: header.kid, issuer })
}

fn read_part<'de, T: for<'a> Deserialize<'a> + 'de>(part: &str) -> Option<T> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use base64::Engine as _;
    use jsonwebtoken::errors::ErrorKind;

    use crate::keyring::tests::key_pair;

    pub(crate) fn claims(lives_s: i64) -> Claims {
        let now = runtime::now_ms() / 1_000;
        Claims {
            iss: "bandar".to_owned(),
            sub: Uuid::nil().to_string(),
            aud: AUDIENCE.to_owned(),
            exp: now + lives_s,
            iat: now,
            jti: Uuid::nil(),
            typ: SubjectKind::User,
            tenant: "acme".to_owned(),
            name: "Ada".to_owned(),
            role: Some(Role::Operator),
            grants: Grants::new(),
            ver: 3,
        }
    }

    fn base64(text: &str) -> String {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    }

    fn failure(token: &str, issuer: &str, key: &DecodingKey) -> ErrorKind {
        verify(token, issuer, key).unwrap_err().into_kind()
    }

    #[test]
    fn what_was_signed_is_read_back() {
        let (encoding, decoding) = key_pair();
        let token = sign(&claims(60), "k1", &encoding).unwrap();
        assert_eq!(verify(&token, "bandar", &decoding).unwrap(), claims(60));
        let peeked = peek(&token).unwrap();
        assert_eq!((peeked.kid.as_deref(), peeked.issuer.as_deref()), (Some("k1"), Some("bandar")));
        assert_eq!(peeked.algorithm, Some(Algorithm::ES256));
    }

    #[test]
    fn the_longest_token_fits_a_credential() {
        let name = |number: usize| ids::ApplicationName::parse(&format!("{number:0128}")).unwrap();
        let grants = (0..crate::domain::GRANTS_MAX).map(|number| (name(number), Role::Operator)).collect();
        let longest = Claims {
            tenant: "t".repeat(64),
            name: "\u{1f680}".repeat(256),
            role: Some(Role::Operator),
            typ: SubjectKind::ApiKey,
            grants,
            ..claims(60)
        };
        let token = sign(&longest, "0123456789abcdef", &key_pair().0).unwrap();
        assert!(token.len() <= crate::authenticator::CREDENTIAL_BYTES_MAX, "{}", token.len());
    }

    #[test]
    fn expired_foreign_and_tampered_tokens_are_refused() {
        let (encoding, decoding) = key_pair();
        let token = sign(&claims(-61), "k1", &encoding).unwrap();
        assert_eq!(failure(&token, "bandar", &decoding), ErrorKind::ExpiredSignature);
        let within_leeway = sign(&claims(-30), "k1", &encoding).unwrap();
        assert!(verify(&within_leeway, "bandar", &decoding).is_ok());

        let token = sign(&claims(60), "k1", &encoding).unwrap();
        assert_eq!(failure(&token, "elsewhere", &decoding), ErrorKind::InvalidIssuer);
        assert_eq!(failure(&token, "bandar", &key_pair().1), ErrorKind::InvalidSignature);
        let other = sign(&Claims { aud: "other".to_owned(), ..claims(60) }, "k1", &encoding).unwrap();
        assert_eq!(failure(&other, "bandar", &decoding), ErrorKind::InvalidAudience);

        let parts: Vec<&str> = token.split('.').collect();
        let admin = serde_json::to_string(&Claims { role: Some(Role::Admin), ..claims(60) }).unwrap();
        let tampered = format!("{}.{}.{}", parts[0], base64(&admin), parts[2]);
        assert_eq!(failure(&tampered, "bandar", &decoding), ErrorKind::InvalidSignature);
    }

    #[test]
    fn no_other_algorithm_is_taken() {
        let (encoding, decoding) = key_pair();
        let token = sign(&claims(60), "k1", &encoding).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        for signature in ["", parts[2]] {
            let none = format!("{}.{}.{signature}", base64(r#"{"alg":"none","kid":"k1"}"#), parts[1]);
            assert!(verify(&none, "bandar", &decoding).is_err());
            assert_eq!(peek(&none).unwrap().algorithm, None);
        }
        // The public key as a shared secret: the classic confusion.
        let public = decoding.try_get_as_bytes().unwrap();
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::HS256) };
        let confused = jsonwebtoken::encode(&header, &claims(60), &EncodingKey::from_secret(public)).unwrap();
        assert_eq!(failure(&confused, "bandar", &decoding), ErrorKind::InvalidAlgorithm);
    }

    #[test]
    fn other_texts_are_no_tokens() {
        for text in ["", "key", "a.b.c", "a.b", "....", "bdr_id_secret", &format!("{}.x", base64("{}"))] {
            assert_eq!(peek(text), None, "{text}");
        }
    }
}
