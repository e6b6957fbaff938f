//! The users of NATS: one for each service, with the least permissions that it needs.

use std::fmt::Write as _;

use ids::InstanceName;
use serde_json::json;

use crate::{Entry, Permissions, Subjects, access};

/// A user of NATS and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsUser {
    /// Its name, which is the service's.
    pub name: String,
    /// What it may do.
    pub permissions: Permissions,
}

impl NatsUser {
    /// The user of an instance.
    #[must_use]
    pub fn new(instance: &InstanceName, subjects: &Subjects) -> Self {
        Self { name: instance.to_string(), permissions: subjects.of(instance) }
    }
}

/// The users that these services need: one for each, and `edge`, as which each process checks the credentials of REST calls.
pub fn nats_users(entries: &[Entry]) -> anyhow::Result<Vec<NatsUser>> {
    let services = entries.iter().map(|entry| (entry.name, entry.subjects()));
    let all = services.chain([(access::NAME, access::subjects())]);
    all.map(|(name, subjects)| Ok(NatsUser::new(&InstanceName::parse(name)?, &subjects))).collect()
}

/// The entries of `users` in a nats-server's block `authorization`; `password` gives the value for a user.
pub fn nats_authorization(users: &[NatsUser], password: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for NatsUser { name, permissions } in users {
        // Quoted as JSON: nats-server reads the same. Writing to a string does not fail.
        let _ = write!(
            text,
            "    {{\n      user: {}, password: {}\n      permissions: {{\n        publish: {{ allow: [{}] }}\n        \
             subscribe: {{ allow: [{}] }}\n      }}\n    }}\n",
            json!(name),
            password(name),
            list(&permissions.publish),
            list(&permissions.subscribe),
        );
    }
    text
}

fn list(subjects: &[String]) -> String {
    let lines: String = subjects.iter().map(|subject| format!("\n          {}", json!(subject))).collect();
    format!("{lines}\n        ")
}
