//! Why an operation failed.

use ids::InvalidId;
use uuid::Uuid;

use crate::authority::MakeError;
use crate::certificate::InvalidCertificate;
use crate::keys::WrongKey;
use crate::logins::HashError;
use crate::state::{InvalidState, State};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there are no credentials {0}")]
    UnknownCredentials(String),
    #[error("there is no certificate authority {0}")]
    UnknownAuthority(String),
    #[error(
        "the tenant has no active authority of its own yet: issue a certificate, or POST an authority without a body"
    )]
    NoOwnAuthority,
    #[error(
        "a user name has 1 to 128 characters, none of them blanks around it or control characters; it is given without @<tenant>"
    )]
    InvalidUsername,
    #[error("the user name is taken; choose another one")]
    UsernameTaken,
    #[error(
        "a certificate authority of this name is registered already, by this tenant or another: its name must be unique in the platform"
    )]
    AuthorityTaken,
    #[error("the tenant's own authority {0} is suspended: activate it, or POST another")]
    AuthoritySuspended(Uuid),
    #[error("the authority was suspended, revoked or deleted meanwhile: try again")]
    AuthorityGone,
    #[error(
        "the platform's root authority expires before the certificate would: ask for a shorter ttlSeconds"
    )]
    RootExpires,
    #[error("it cannot be moved from {from} to {to}")]
    Transition { from: State, to: State },
    #[error("revoked credentials get no new password: make others")]
    Revoked,
    #[error(
        "a certificate of a foreign authority is registered again when it is next used: revoke it to keep it out, or delete it with forget=true"
    )]
    WouldReturn,
    #[error("the tenant has the most {what} allowed, {max} (ccm.{key}): delete some first")]
    TooMany { what: &'static str, key: &'static str, max: i64 },
    #[error("ttlSeconds must be from 60 to {0} (ccm.certificate_ttl_max_s)")]
    Ttl(u64),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
    #[error(transparent)]
    State(#[from] InvalidState),
    #[error(transparent)]
    Invalid(#[from] InvalidId),
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error(transparent)]
    Key(#[from] WrongKey),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
