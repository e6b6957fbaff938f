//! Section `[tekton]`.

use serde::Deserialize;

/// What one answer over NATS may hold: its default limit of 1 MiB less room for names.
const BLOCK_BYTES_CEILING: usize = 512 * 1024;
/// What keeps the list of version names in one answer small.
const APP_VERSIONS_CEILING: i64 = 2_000;

/// Services announce themselves within seconds of their start; nobody should wait for longer than a REST call does.
const ANNOUNCEMENT_GRACE_CEILING_MS: u64 = 20_000;
/// The NATS server's default limit of a message, less room for the rest of an announcement.
const DESCRIPTION_BYTES_CEILING: usize = 1_000_000;

/// The limits of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Applications of one tenant.
    pub applications_max: i64,
    /// Versions of one application.
    pub app_versions_max: i64,
    /// Bytes of one service's configuration block, as JSON.
    pub block_bytes_max: usize,
    /// Bytes of all configuration blocks of one application, as JSON.
    pub application_config_bytes_max: usize,
    /// Bytes of all configuration blocks of one tenant at its own level, as JSON.
    pub tenant_config_bytes_max: usize,
    /// Bytes of all configuration blocks in one bulk export, as JSON.
    pub export_bytes_max: usize,
    /// Applications in one bulk export.
    pub export_applications_max: i64,
    /// Whether the platform makes the names of applications; if not, who makes an application names it.
    pub app_names_auto_generation: bool,
    /// Service instances that are known.
    pub service_instances_max: i64,
    /// Bytes of what one service instance says of itself, its schemas included.
    pub description_bytes_max: usize,
    /// Milliseconds from the start in which a service that nobody knows yet is waited for before its configuration
    /// is refused: services that start together announce themselves within seconds.
    pub announcement_grace_ms: u64,
    /// Configuration requests of other services that are answered at once; more wait in the subscription.
    pub concurrent_requests_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            applications_max: 1_000,
            app_versions_max: 200,
            block_bytes_max: 256 * 1024,
            application_config_bytes_max: 4 * 1024 * 1024,
            tenant_config_bytes_max: 1024 * 1024,
            export_bytes_max: 16 * 1024 * 1024,
            export_applications_max: 10_000,
            app_names_auto_generation: true,
            service_instances_max: 200,
            description_bytes_max: 256 * 1024,
            announcement_grace_ms: 10_000,
            concurrent_requests_max: 16,
        }
    }
}

impl Config {
    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.applications_max < 1 {
            faults.push(("applications_max", "must be at least 1".to_owned()));
        }
        if !(1..=APP_VERSIONS_CEILING).contains(&self.app_versions_max) {
            faults.push(("app_versions_max", format!("must be from 1 to {APP_VERSIONS_CEILING}")));
        }
        if !(2..=BLOCK_BYTES_CEILING).contains(&self.block_bytes_max) {
            faults.push(("block_bytes_max", format!("must be from 2 to {BLOCK_BYTES_CEILING} bytes")));
        }
        if self.application_config_bytes_max < self.block_bytes_max {
            faults.push(("application_config_bytes_max", "must be at least block_bytes_max".to_owned()));
        }
        if self.tenant_config_bytes_max < self.block_bytes_max {
            faults.push(("tenant_config_bytes_max", "must be at least block_bytes_max".to_owned()));
        }
        if self.export_bytes_max < self.application_config_bytes_max.max(self.tenant_config_bytes_max) {
            let least = "must be at least application_config_bytes_max and tenant_config_bytes_max";
            faults.push(("export_bytes_max", least.to_owned()));
        }
        for (key, number) in [
            ("export_applications_max", self.export_applications_max),
            ("service_instances_max", self.service_instances_max),
        ] {
            if number < 1 {
                faults.push((key, "must be at least 1".to_owned()));
            }
        }
        if !(1..=DESCRIPTION_BYTES_CEILING).contains(&self.description_bytes_max) {
            let range = format!("must be from 1 to {DESCRIPTION_BYTES_CEILING} bytes");
            faults.push(("description_bytes_max", range));
        }
        if self.announcement_grace_ms > ANNOUNCEMENT_GRACE_CEILING_MS {
            let range = format!("must be at most {ANNOUNCEMENT_GRACE_CEILING_MS} ms");
            faults.push(("announcement_grace_ms", range));
        }
        if self.concurrent_requests_max < 1 {
            faults.push(("concurrent_requests_max", "must be at least 1".to_owned()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_order_and_each_fault_names_its_key() {
        assert!(Config::default().faults().is_empty());
        let wrong = Config {
            applications_max: 0,
            app_versions_max: 0,
            block_bytes_max: 1 << 30,
            application_config_bytes_max: 1,
            tenant_config_bytes_max: 1,
            export_bytes_max: 0,
            export_applications_max: 0,
            app_names_auto_generation: true,
            service_instances_max: 0,
            description_bytes_max: 0,
            announcement_grace_ms: 60_000,
            concurrent_requests_max: 0,
        };
        let keys: Vec<_> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        let all = [
            "applications_max",
            "app_versions_max",
            "block_bytes_max",
            "application_config_bytes_max",
            "tenant_config_bytes_max",
            "export_bytes_max",
            "export_applications_max",
            "service_instances_max",
            "description_bytes_max",
            "announcement_grace_ms",
            "concurrent_requests_max",
        ];
        assert_eq!(keys, all);
    }
}
