//! The section `[postgres]` of the configuration.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

/// Where PostgreSQL is and how much of it one service uses. Each service of a process has a pool of its own.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `postgres://user:password@host:port/database?sslmode=...`; a Unix socket is `postgres://user@%2Frun%2Fpostgresql/database` or
    /// `?host=/run/postgresql`. A secret: debug output does not show it.
    pub url: String,
    /// Connections of one service at most. Default 8.
    pub max_connections: u32,
    /// How long a query waits for a free connection, in milliseconds. Default 5000.
    pub acquire_timeout_ms: u64,
    /// How long one statement may run, in milliseconds. Default 30000. Migrations are exempt.
    pub statement_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            max_connections: 8,
            acquire_timeout_ms: 5_000,
            statement_timeout_ms: 30_000,
        }
    }
}

impl Config {
    /// All that is wrong with these settings, each with the key and the fix; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(fault) = self.options() {
            faults.push(fault);
        }
        let limits = [
            ("max_connections", u64::from(self.max_connections), 1_000),
            ("acquire_timeout_ms", self.acquire_timeout_ms, 600_000),
            ("statement_timeout_ms", self.statement_timeout_ms, 86_400_000),
        ];
        for (key, value, max) in limits {
            if !(1..=max).contains(&value) {
                faults.push(format!("postgres.{key} is {value}: set it to 1 to {max}"));
            }
        }
        faults
    }

    /// The URL, read. The error never shows the URL, as it may hold a password.
    pub(crate) fn options(&self) -> Result<PgConnectOptions, String> {
        if self.url.is_empty() {
            return Err(
                "postgres.url is missing: set it to postgres://user:password@host:5432/database".to_owned()
            );
        }
        if !self.url.starts_with("postgres://") && !self.url.starts_with("postgresql://") {
            return Err("postgres.url must start with postgres:// or postgresql://".to_owned());
        }
        PgConnectOptions::from_str(&self.url).map_err(|error| format!("postgres.url cannot be read: {error}"))
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("url", &"***")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout_ms", &self.acquire_timeout_ms)
            .field("statement_timeout_ms", &self.statement_timeout_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> Config {
        Config { url: url.to_owned(), ..Config::default() }
    }

    #[test]
    fn urls_of_tcp_and_of_unix_sockets_are_read() {
        let tcp = with_url("postgres://bandar:p%40ss@db.example:5433/bandar").options().unwrap();
        assert_eq!(
            (tcp.get_host(), tcp.get_port(), tcp.get_database()),
            ("db.example", 5433, Some("bandar"))
        );
        for url in ["postgres://u@%2Frun%2Fpg/bandar", "postgresql://u@localhost/bandar?host=/run/pg"] {
            let unix = with_url(url).options().unwrap();
            assert_eq!(unix.get_socket().unwrap().to_str(), Some("/run/pg"), "{url}");
        }
    }

    #[test]
    fn every_fault_is_named_and_no_secret_shown() {
        let config =
            Config { url: "mysql://u:hunter2@h/d".to_owned(), max_connections: 0, ..Config::default() };
        let faults = config.check();
        assert_eq!(faults.len(), 2, "{faults:?}");
        let shown = format!("{faults:?} {config:?} {:?}", with_url("postgres://u:hunter2@h:port/d").check());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(with_url("").check()[0].contains("postgres.url is missing"));
        assert!(with_url("postgres://localhost/bandar").check().is_empty());
    }
}
