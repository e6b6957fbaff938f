//! Ids that follow a message through all services.

use std::sync::atomic::{AtomicU64, Ordering};

use ids::CorrelationId;

/// Makes correlation ids: a random part for the replica and a number, both short, for they are in every message.
pub(crate) struct CorrelationIds {
    prefix: String,
    next: AtomicU64,
}

impl CorrelationIds {
    pub(crate) fn new() -> Self {
        Self { prefix: format!("{:012x}", rand::random::<u64>() >> 16), next: AtomicU64::new(1) }
    }

    pub(crate) fn next(&self) -> CorrelationId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let text = format!("{}-{number}", self.prefix);
        CorrelationId::parse(&text)
            .unwrap_or_else(|_| unreachable!("hexadecimal digits and a dash are printable"))
    }

    /// Whether the id was made here.
    pub(crate) fn made(&self, correlation_id: &str) -> bool {
        correlation_id.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_ids_differ() {
        let (one, two) = (CorrelationIds::new(), CorrelationIds::new());
        assert_ne!(one.next(), one.next());
        assert_ne!(one.next().as_str().split('-').next(), two.next().as_str().split('-').next());
    }

    #[test]
    fn a_correlation_id_tells_who_made_it() {
        let (one, two) = (CorrelationIds::new(), CorrelationIds::new());
        let id = one.next();
        assert!(one.made(id.as_str()) && !two.made(id.as_str()));
        assert!(!one.made("") && !one.made("push-1"));
    }
}
