//! What the gateway says of itself and what it does on NATS.

use ism::subject::instance;
use ism::{authorities, cap, ecap, elce, esp, session, topics};
use runtime::{Description, Subjects};

/// For the application register, which checks the gateway's settings against the schemas.
pub(crate) const DESCRIPTION: Description = Description {
    group: "Communication",
    text: "The gateway: devices speak 1/KP to it over MQTT and HTTP",
    app_schema: Some(include_str!("../../../proto-schemas/json/configuration/kpc.app.schema.json")),
    app_version_schema: Some(include_str!("../../../proto-schemas/json/configuration/kpc.app.schema.json")),
    tenant_schema: Some(include_str!("../../../proto-schemas/json/configuration/kpc.tenant.schema.json")),
};

/// All that the gateway publishes and subscribes to.
pub(crate) fn subjects() -> Subjects {
    let own = Subjects::new()
        .reads_configuration()
        .asks(instance::CM, ecap::EP_TOKEN_REQUEST)
        .asks(instance::CCM, cap::BASIC_REQUEST)
        .asks(instance::CCM, cap::CERTIFICATE_REQUEST)
        .asks(instance::CCM, authorities::AUTHORITIES_REQUEST)
        // Whatever extensions there are, and what they push to all replicas or to one, each in its own name.
        .asks("*", esp::CLIENT_DATA)
        .serves_by_name(esp::EXTENSION_DATA)
        .receives(esp::PROTOCOL)
        // RFC 4's own subject, for extensions written for Kaa that an operator lets publish there.
        .serves(esp::EXTENSION_DATA)
        // Responses that subscribers on other replicas may await; reports to those who push.
        .asks("<own>", esp::FORWARDED_DATA)
        .serves(esp::FORWARDED_DATA)
        .tells(esp::FORWARDED_DATA)
        .answers(esp::DELIVERY_REPORT)
        .tells(esp::DELIVERY_REPORT)
        // Topics outside of 1/KP, whatever extension serves them.
        .asks("*", topics::SUBSCRIBE_REQUEST)
        .asks("*", topics::PUBLISH_REQUEST)
        .serves_by_name(topics::MESSAGE)
        .answers(topics::DELIVERY_REPORT)
        // Where extensions that are no service of the platform want theirs: each of those has a prefix of its own.
        .publishes("_INBOX.>")
        // Endpoints and clients that replicas share.
        .emits(elce::CONNECTED)
        .hears(elce::CONNECTED)
        .emits(elce::DISCONNECTED)
        .hears(elce::DISCONNECTED)
        .asks("<own>", elce::CONNECTED_HERE_TOO)
        .serves(elce::CONNECTED_HERE_TOO)
        .tells(elce::CONNECTED_HERE_TOO)
        .receives(elce::PROTOCOL)
        .emits(session::CLIENT_CONNECTED)
        .hears(session::CLIENT_CONNECTED)
        .asks("<own>", session::CLIENT_ANNOUNCED)
        .serves(session::CLIENT_ANNOUNCED)
        .emits(session::REPLICA_ALIVE)
        .emits(elce::TRAFFIC_REPORT)
        // What ends sessions.
        .hears(ecap::EP_TOKEN_REVOKED)
        .hears(cap::BASIC_REVOKED)
        .hears(cap::CERTIFICATE_REVOKED)
        .hears(authorities::AUTHORITIES_CHANGED);
    extension::follower_subjects(own)
}
