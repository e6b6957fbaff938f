//! The records and subjects against `proto-schemas/`, with apache-avro as the oracle. Everything runs over the catalogue:
//! a new message is tested by its line there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod catalogue;
mod device_payloads;
mod oracle;
mod records;
mod strict;
mod vectors;
