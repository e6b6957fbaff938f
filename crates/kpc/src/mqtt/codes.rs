//! MQTT's reason codes for what the gateway says in HTTP statuses and in its own words.

use kp1::{PathError, RequestPath};
use ntex_mqtt::v3;
use ntex_mqtt::v5::codec::{ConnectAckReason, DisconnectReasonCode, PublishAckReason, SubscribeAckReason};

use super::subscribe::Denied;
use crate::connections::CONNECTIONS_PER_ADDRESS;
use crate::failure::Failure;
use crate::login::Refusal;
use crate::outbox::CloseReason;

/// The return code of CONNACK of MQTT 3.1.1.
pub(super) fn connect_v3(refusal: &Refusal) -> v3::codec::ConnectAckReason {
    use v3::codec::ConnectAckReason;

    match refusal {
        Refusal::BadClientId(_) => ConnectAckReason::IdentifierRejected,
        Refusal::BadCredentials(_) => ConnectAckReason::BadUserNameOrPassword,
        Refusal::NotAuthorized(_) => ConnectAckReason::NotAuthorized,
        Refusal::Stopping | Refusal::Limit(_) | Refusal::Throttled(_) | Refusal::Unavailable(_) => {
            ConnectAckReason::ServiceUnavailable
        }
    }
}

/// The reason code of CONNACK of MQTT 5.
pub(super) fn connect_v5(refusal: &Refusal) -> ConnectAckReason {
    match refusal {
        Refusal::Stopping | Refusal::Unavailable(_) => ConnectAckReason::ServerUnavailable,
        Refusal::Limit(CONNECTIONS_PER_ADDRESS) => ConnectAckReason::QuotaExceeded,
        Refusal::Limit(_) => ConnectAckReason::ServerBusy,
        Refusal::BadClientId(_) => ConnectAckReason::ClientIdentifierNotValid,
        Refusal::BadCredentials(_) => ConnectAckReason::BadUserNameOrPassword,
        Refusal::NotAuthorized(_) => ConnectAckReason::NotAuthorized,
        Refusal::Throttled(_) => ConnectAckReason::ConnectionRateExceeded,
    }
}

/// The reason code of PUBACK and PUBREC for a message that was not taken.
pub(super) fn publish_ack(failure: &Failure, topic: &str) -> PublishAckReason {
    match failure.status {
        // Of a topic outside of 1/KP it is the extension that says so.
        400 if RequestPath::parse_topic(topic).is_err_and(|error| error != PathError::NotKp1) => {
            PublishAckReason::TopicNameInvalid
        }
        400 => PublishAckReason::PayloadFormatInvalid,
        401 | 403 => PublishAckReason::NotAuthorized,
        404 => PublishAckReason::TopicNameInvalid,
        // A packet that is too large for the connection closes it; this one is too large only for its extension.
        413 | 429 => PublishAckReason::QuotaExceeded,
        _ if failure.passing => PublishAckReason::UnspecifiedError,
        _ => PublishAckReason::ImplementationSpecificError,
    }
}

/// The reason code of SUBACK for a filter that was not granted.
pub(super) fn subscribe_ack(denied: Denied) -> SubscribeAckReason {
    match denied {
        Denied::Shared => SubscribeAckReason::SharedSubscriptionNotSupported,
        Denied::Filter => SubscribeAckReason::TopicFilterInvalid,
        Denied::Unauthorized => SubscribeAckReason::NotAuthorized,
        Denied::Quota => SubscribeAckReason::QuotaExceeded,
        Denied::Unavailable => SubscribeAckReason::UnspecifiedError,
    }
}

/// The reason code of a DISCONNECT that the gateway sends.
pub(super) fn disconnect(reason: CloseReason) -> DisconnectReasonCode {
    match reason {
        CloseReason::TakenOver => DisconnectReasonCode::SessionTakenOver,
        CloseReason::Revoked | CloseReason::Unauthenticated | CloseReason::CertificateExpired => {
            DisconnectReasonCode::NotAuthorized
        }
        CloseReason::CredentialsRevoked | CloseReason::Recheck => DisconnectReasonCode::AdministrativeAction,
        CloseReason::SlowReader | CloseReason::Guessing => DisconnectReasonCode::QuotaExceeded,
        CloseReason::Undelivered => DisconnectReasonCode::UnspecifiedError,
        CloseReason::Stopping => DisconnectReasonCode::ServerShuttingDown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_path_and_a_bad_payload_have_codes_of_their_own() {
        let bad = Failure::refused(400, "");
        assert_eq!(publish_ack(&bad, "kp1/v/dcx/t/json"), PublishAckReason::PayloadFormatInvalid);
        assert_eq!(publish_ack(&bad, &"a/".repeat(40)), PublishAckReason::TopicNameInvalid);
        assert_eq!(publish_ack(&bad, "cmd/thing/req"), PublishAckReason::PayloadFormatInvalid);
        assert_eq!(publish_ack(&Failure::refused(404, ""), "kp1/v/x/t"), PublishAckReason::TopicNameInvalid);
        assert_eq!(publish_ack(&Failure::refused(403, ""), "kp1/v/dcx/t"), PublishAckReason::NotAuthorized);
        assert_eq!(
            publish_ack(&Failure::passing(503, ""), "kp1/v/dcx/t"),
            PublishAckReason::UnspecifiedError
        );
    }
}
