//! What the claims of an external token mean here.

use ids::TenantId;
use rest::Role;
use serde_json::Value;

use super::{External, NotTaken, OidcConfig};

/// Tokens of Keycloak that are signed alike but are no access tokens.
const OTHER_KINDS: [&str; 4] = ["ID", "Refresh", "Offline", "Logout"];
/// The longest subject that is taken, in bytes; the standard allows 255 characters.
const SUBJECT_BYTES_MAX: usize = 255;
/// A longer name is cut: it is for people only.
const NAME_CHARS_MAX: usize = 128;

/// Reads claims whose signature, issuer, audience and times were checked.
pub(super) fn read(
    config: &OidcConfig,
    platform_tenant: &TenantId,
    claims: &Value,
) -> Result<External, NotTaken> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("typ").is_some_and(|kind| OTHER_KINDS.contains(&kind)) {
        return Err(NotTaken::Kind);
    }
    let subject = text("sub").filter(|subject| !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX);
    let subject = subject.ok_or_else(|| NotTaken::Claim("sub".to_owned()))?;
    let expires_at =
        claims.get("exp").and_then(Value::as_f64).ok_or_else(|| NotTaken::Claim("exp".to_owned()))?;
    let tenant = match (&config.tenant, &config.tenant_claim) {
        (Some(tenant), _) => tenant.to_string(),
        (None, claim) => {
            let claim = claim.as_deref().unwrap_or_default();
            let named = find(claims, claim).and_then(Value::as_str);
            let named = named.ok_or_else(|| NotTaken::Claim(claim.to_owned()))?;
            if !config.lets_claim(named, platform_tenant) {
                return Err(NotTaken::Tenant);
            }
            named.to_owned()
        }
    };
    let name = text("preferred_username").or_else(|| text("name")).unwrap_or(subject);
    Ok(External {
        tenant,
        subject: format!("{}#{subject}", config.issuer),
        name: name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect(),
        role: role(config, claims),
        expires_at: seconds(expires_at),
    })
}

/// The highest role that any of the token's gives.
fn role(config: &OidcConfig, claims: &Value) -> Option<Role> {
    let held = find(claims, &config.role_claim)?;
    let held = match held {
        Value::Array(items) => items.as_slice(),
        single => std::slice::from_ref(single),
    };
    held.iter().filter_map(Value::as_str).filter_map(|role| config.roles.get(role)).max().copied()
}

/// The claim of a name, or else at the end of a path with dots; names of claims may themselves hold dots.
fn find<'c>(claims: &'c Value, path: &str) -> Option<&'c Value> {
    claims.get(path).or_else(|| path.split('.').try_fold(claims, |value, key| value.get(key)))
}

#[expect(clippy::cast_possible_truncation, reason = "a cast from f64 keeps to the bounds of i64")]
fn seconds(number: f64) -> i64 {
    number as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oidc::config::tests::config;
    use serde_json::json;

    fn external(config: &OidcConfig, extra: Value) -> Result<External, NotTaken> {
        let mut claims = json!({"sub": "42", "exp": 100, "preferred_username": "ada"});
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(config, &TenantId::parse("bandar").unwrap(), &claims)
    }

    #[test]
    fn the_highest_of_the_mapped_roles_counts() {
        let config = config(r#""tenant": "acme""#);
        let role = |roles: Value| external(&config, json!({"realm_access": {"roles": roles}})).unwrap().role;
        assert_eq!(role(json!(["watcher", "bandar-admin", "other"])), Some(Role::Admin));
        assert_eq!(role(json!("watcher")), Some(Role::Viewer));
        assert_eq!(role(json!(["admin"])), None);
        assert_eq!(role(json!([7, null])), None);
        assert_eq!(external(&config, json!({})).unwrap().role, None);
    }

    #[test]
    fn the_tenant_is_the_configured_or_the_claimed_one() {
        let fixed = external(&config(r#""tenant": "acme""#), json!({"tenant": "other"})).unwrap();
        assert_eq!(fixed.tenant, "acme");
        assert_eq!(fixed.subject, "https://id.example/realms/acme#42");
        assert_eq!((fixed.name.as_str(), fixed.expires_at), ("ada", 100));
        let claimed = config(r#""tenant_claim": "https://bandar.example/tenant""#);
        let taken = external(&claimed, json!({"https://bandar.example/tenant": "acme"})).unwrap();
        assert_eq!(taken.tenant, "acme");
        let bound = config(r#""tenant_claim": "tenant", "tenants": ["acme"]"#);
        assert!(external(&bound, json!({"tenant": "acme"})).is_ok());
        assert_eq!(external(&bound, json!({"tenant": "other"})), Err(NotTaken::Tenant));
        // Nobody becomes an administrator of the platform because a claim could be anything.
        let any = config(r#""tenant_claim": "tenant""#);
        assert_eq!(external(&any, json!({"tenant": "bandar"})), Err(NotTaken::Tenant));
        let named = config(r#""tenant_claim": "tenant", "tenants": ["bandar"]"#);
        assert!(external(&named, json!({"tenant": "bandar"})).is_ok());
        let missing = NotTaken::Claim("https://bandar.example/tenant".to_owned());
        assert_eq!(external(&claimed, json!({"tenant": "acme"})), Err(missing));
    }

    #[test]
    fn only_access_tokens_with_a_subject_are_taken() {
        let config = config(r#""tenant": "acme""#);
        assert_eq!(external(&config, json!({"typ": "ID"})), Err(NotTaken::Kind));
        assert!(external(&config, json!({"typ": "Bearer"})).is_ok());
        for sub in [json!(""), json!(7), json!("s".repeat(256))] {
            assert_eq!(external(&config, json!({"sub": sub})), Err(NotTaken::Claim("sub".to_owned())));
        }
        assert_eq!(external(&config, json!({"exp": 1e300})).unwrap().expires_at, i64::MAX);
    }
}
