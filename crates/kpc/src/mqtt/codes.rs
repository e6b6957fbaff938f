//! MQTT 5 reason codes for what the gateway says in HTTP statuses.

use kp1::RequestPath;
use ntex_mqtt::v5::codec::{DisconnectReasonCode, PublishAckReason, SubscribeAckReason};

use super::subscribe::Denied;
use crate::failure::Failure;
use crate::outbox::CloseReason;

/// The reason code of PUBACK and PUBREC for a message that was not taken.
pub(super) fn publish_ack(failure: &Failure, topic: &str) -> PublishAckReason {
    match failure.status {
        400 if RequestPath::parse_topic(topic).is_err() => PublishAckReason::TopicNameInvalid,
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
        CloseReason::Revoked => DisconnectReasonCode::NotAuthorized,
        CloseReason::SlowReader => DisconnectReasonCode::QuotaExceeded,
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
        assert_eq!(publish_ack(&Failure::refused(404, ""), "kp1/v/x/t"), PublishAckReason::TopicNameInvalid);
        assert_eq!(publish_ack(&Failure::refused(403, ""), "kp1/v/dcx/t"), PublishAckReason::NotAuthorized);
        assert_eq!(
            publish_ack(&Failure::passing(503, ""), "kp1/v/dcx/t"),
            PublishAckReason::UnspecifiedError
        );
    }
}
