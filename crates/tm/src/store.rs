//! The service's tables. What a tenant's own people ask for is scoped to the tenant; credentials are found by
//! their digest or id, and say whose they are.

mod api_keys;
mod bootstrap;
mod login_failures;
mod principals;
mod sessions;
mod signing_keys;
mod tenants;
mod users;

use std::collections::BTreeMap;

use ids::{ApplicationName, TenantId};
use rest::Role;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

pub(crate) use api_keys::NewApiKeyRow;
pub(crate) use bootstrap::FirstTenant;
pub(crate) use login_failures::{Attempt, LoginSubject};
pub(crate) use principals::{Principal, TenantState};
pub(crate) use sessions::{Refreshed, SessionLimits};
pub(crate) use signing_keys::{NewSigningKey, SigningKeyRow};
pub(crate) use tenants::{NewTenant, TenantChange, TenantFilter};
pub(crate) use users::{Credentials, NewUser, UserChange, UserFilter};

use crate::config::Config;
use crate::domain::Grants;
use crate::error::Error;

/// The migrations of the schema.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Tenants, users and keys in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
    limits: Limits,
}

/// How many of each there may be.
#[derive(Clone, Copy)]
struct Limits {
    tenants: i64,
    users: i64,
    api_keys: i64,
}

/// Grants as the database gives them: role names by application name.
type GrantsColumn = Json<BTreeMap<String, String>>;

impl Store {
    pub(crate) fn new(pool: PgPool, config: &Config) -> Self {
        let limits =
            Limits { tenants: config.tenants_max, users: config.users_max, api_keys: config.api_keys_max };
        Self { pool, limits }
    }
}

/// A role as it is stored. One that this version does not know gives nothing.
fn role(column: Option<&str>) -> Option<Role> {
    column.and_then(Role::parse)
}

fn grants(column: GrantsColumn) -> Grants {
    let read =
        |(name, role): (String, String)| Some((ApplicationName::parse(&name).ok()?, Role::parse(&role)?));
    column.0.into_iter().filter_map(read).collect()
}

/// Grants as the two lists that `unnest` takes.
fn grant_columns(grants: &Grants) -> (Vec<&str>, Vec<&str>) {
    grants.iter().map(|(name, role)| (name.as_str(), role.as_str())).unzip()
}

/// A text that may stand anywhere in a column, for `LIKE`.
fn containing(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// Locks a tenant against other changes of its users and keys until the transaction ends.
async fn lock_tenant(connection: &mut PgConnection, tenant: &TenantId) -> Result<(), Error> {
    let found: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM tenants WHERE tenant_id = $1 AND deleted_at IS NULL FOR UPDATE")
            .bind(tenant.as_str())
            .fetch_optional(connection)
            .await?;
    found.map(drop).ok_or_else(|| Error::UnknownTenant(tenant.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_to_search_for_hold_no_wildcards() {
        assert_eq!(containing(r"a%b_c\"), r"%a\%b\_c\\%");
    }

    #[test]
    fn what_is_not_known_gives_nothing() {
        assert_eq!(role(Some("emperor")), None);
        assert_eq!(role(Some("viewer")), Some(Role::Viewer));
        let column = [("app", "operator"), ("other", "emperor"), ("No Name", "viewer")];
        let column = column.map(|(name, role)| (name.to_owned(), role.to_owned()));
        let read = grants(Json(column.into_iter().collect()));
        assert_eq!(read, Grants::from([(ApplicationName::parse("app").unwrap(), Role::Operator)]));
    }
}
