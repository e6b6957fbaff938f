//! What the commands ask of the configuration before any service reads it.

use runtime::{Fault, Faults, Settings, telemetry};

/// Whether a key, as `section.key`, is set anywhere.
pub(crate) fn is_set(settings: &Settings, key: &str) -> bool {
    let (section, rest) = key.split_once('.').unwrap_or((key, ""));
    let section: Option<serde_json::Value> = settings.section(section).ok();
    section.is_some_and(|section| section.pointer(&format!("/{}", rest.replace('.', "/"))).is_some())
}

/// One fault, found by a command itself.
pub(crate) fn fault(key: &str, message: impl Into<String>) -> Faults {
    Faults(vec![Fault { key: key.to_owned(), message: message.into(), origin: None }])
}

/// Installs logs and metrics as configured.
pub(crate) fn install_telemetry(settings: &Settings) -> anyhow::Result<telemetry::Telemetry> {
    let config = settings.section("telemetry").map_err(Faults)?;
    telemetry::install(&config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_at_any_depth() {
        let given =
            vec![("http.auth.api_key".to_owned(), "k".to_owned()), ("nats.url".to_owned(), "n".to_owned())];
        let settings = Settings::from_layers(None, Vec::new(), given);
        assert!(is_set(&settings, "http.auth.api_key") && is_set(&settings, "nats.url"));
        assert!(!is_set(&settings, "http.auth.keys") && !is_set(&settings, "postgres.url"));
    }
}
