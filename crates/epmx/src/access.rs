//! What devices may do with which key, at Kaa's keys: `metadata-keys.<key>.write-enabled`.

use std::collections::BTreeMap;

use extension::Refusal;
use serde::Deserialize;

use crate::payload::shown;

/// The settings of an application or a version of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Access {
    /// The keys that devices may use; none given: all keys, and no list at all is not the same as an empty one.
    metadata_keys: Option<BTreeMap<String, Key>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Key {
    write_enabled: bool,
}

impl Access {
    pub(crate) fn is_readable(&self, key: &str) -> bool {
        self.metadata_keys.as_ref().is_none_or(|keys| keys.contains_key(key))
    }

    pub(crate) fn is_writable(&self, key: &str) -> bool {
        self.metadata_keys.as_ref().is_none_or(|keys| keys.get(key).is_some_and(|key| key.write_enabled))
    }

    /// Refuses keys that the device may not see.
    pub(crate) fn check_readable<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), Refusal> {
        keys.into_iter().find(|key| !self.is_readable(key)).map_or(Ok(()), |key| Err(hidden(key)))
    }

    /// Refuses keys that the device may not write.
    pub(crate) fn check_writable<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), Refusal> {
        match keys.into_iter().find(|key| !self.is_writable(key)) {
            None => Ok(()),
            Some(key) if self.is_readable(key) => {
                let rule = "devices may only read it (metadata-keys in the settings of epmx)";
                Err(Refusal::new(403, format!("metadata key {}: {rule}", shown(key))))
            }
            Some(key) => Err(hidden(key)),
        }
    }
}

fn hidden(key: &str) -> Refusal {
    let rule = "devices may not use it (metadata-keys in the settings of epmx)";
    Refusal::new(403, format!("metadata key {}: {rule}", shown(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn access(settings: Value) -> Access {
        serde_json::from_value(settings).unwrap()
    }

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn without_a_list_every_key_is_free() {
        for access in [Access::default(), access(json!({})), access(json!({"later": 1}))] {
            assert!(access.is_readable("any") && access.is_writable("any"));
        }
    }

    #[test]
    fn a_list_names_all_that_there_is() {
        let access = access(json!({"metadata-keys": {
            "name": {"write-enabled": true}, "serial": {"write-enabled": false}, "model": {},
        }}));
        access.check_readable(&keys(&["name", "serial", "model"])).unwrap();
        access.check_writable(&keys(&["name"])).unwrap();
        for read_only in ["serial", "model"] {
            let refusal = access.check_writable(&keys(&["name", read_only])).unwrap_err();
            assert_eq!(refusal.status_code, 403);
            assert!(refusal.reason_phrase.contains(read_only) && refusal.reason_phrase.contains("only read"));
        }
        for refusal in [
            access.check_readable(&keys(&["name", "other"])).unwrap_err(),
            access.check_writable(&keys(&["other"])).unwrap_err(),
        ] {
            assert_eq!(refusal.status_code, 403);
            assert!(refusal.reason_phrase.contains("\"other\": devices may not use it"), "{refusal}");
        }
    }

    #[test]
    fn an_empty_list_hides_everything() {
        assert!(!access(json!({"metadata-keys": {}})).is_readable("any"));
    }
}
