//! Users, API keys and tenants as they are now, kept for a moment so that most tokens need no look into the tables.

use ids::TenantId;
use uuid::Uuid;

use crate::error::Error;
use crate::fresh::Fresh;
use crate::store::{Principal, Store, TenantState};
use crate::token::SubjectKind;

pub(crate) struct Principals {
    store: Store,
    subjects: Fresh<(SubjectKind, String), Option<Principal>>,
    tenants: Fresh<TenantId, TenantState>,
}

impl Principals {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, subjects: Fresh::new(), tenants: Fresh::new() }
    }

    /// The user or API key of a token that was made when its version was `version`. What is kept may be older than the
    /// token: another replica has made it.
    pub(crate) async fn subject(
        &self,
        kind: SubjectKind,
        id: &str,
        version: i32,
    ) -> Result<Option<Principal>, Error> {
        let kept = self.read_subject(kind, id).await?;
        if kept.as_ref().is_some_and(|principal| principal.token_version >= version) {
            return Ok(kept);
        }
        self.subjects.forget_one(&(kind, id.to_owned()));
        self.read_subject(kind, id).await
    }

    async fn read_subject(&self, kind: SubjectKind, id: &str) -> Result<Option<Principal>, Error> {
        let read = async {
            match (kind, id.parse::<Uuid>()) {
                (SubjectKind::User, Ok(user)) => self.store.user_principal(user).await,
                (SubjectKind::User, Err(_)) => Ok(None),
                (SubjectKind::ApiKey, _) => self.store.api_key_principal_of(id).await,
            }
        };
        self.subjects.get(&(kind, id.to_owned()), read).await
    }

    /// Whether a tenant's people are let in.
    pub(crate) async fn tenant(&self, tenant: &TenantId) -> Result<TenantState, Error> {
        self.tenants.get(tenant, self.store.tenant_state(tenant)).await
    }

    /// Something has changed.
    pub(crate) fn forget(&self) {
        self.subjects.forget();
        self.tenants.forget();
    }
}
