//! The few packets of MQTT 3.1.1 that a publishing device needs, written and read without a client library: the
//! generator has to cost little beside the platform that it measures.

use anyhow::{Result, bail, ensure};

/// The longest packet that is accepted from the gateway, in bytes.
const PACKET_BYTES_MAX: usize = 256 * 1024;

/// The longest string or payload that is written, in bytes: the packet's length then fits two length bytes of a string
/// and four of the fixed header.
const FIELD_BYTES_MAX: usize = 65_535;

/// A packet from the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    ConnAck {
        code: u8,
    },
    PubAck {
        packet_id: u16,
    },
    /// `packet_id` is there with QoS 1 only.
    Publish {
        topic: &'a str,
        packet_id: Option<u16>,
        payload: &'a [u8],
    },
    /// Anything else that a gateway may send to a client (PINGRESP, SUBACK).
    Other,
}

/// Appends a CONNECT with a clean session, and with a user name and a password if there are any.
pub(crate) fn write_connect(
    buffer: &mut Vec<u8>,
    client_id: &str,
    login: Option<(&str, &str)>,
    keep_alive_s: u16,
) -> Result<()> {
    const CLEAN_SESSION: u8 = 0x02;
    const NAME_AND_PASSWORD: u8 = 0xc0;
    let (flags, login) = match login {
        Some((name, password)) => (CLEAN_SESSION | NAME_AND_PASSWORD, vec![name, password]),
        None => (CLEAN_SESSION, Vec::new()),
    };
    let fields: Vec<&str> = std::iter::once(client_id).chain(login).collect();
    for field in &fields {
        ensure!(
            field.len() <= FIELD_BYTES_MAX,
            "client id, user name or password is longer than {FIELD_BYTES_MAX} bytes"
        );
    }
    write_header(buffer, 0x10, 10 + fields.iter().map(|field| 2 + field.len()).sum::<usize>());
    write_string(buffer, "MQTT");
    buffer.extend([4, flags]);
    buffer.extend(keep_alive_s.to_be_bytes());
    for field in fields {
        write_string(buffer, field);
    }
    Ok(())
}

/// Appends a PUBLISH of QoS 1. `again` sets the DUP flag: the message may have been sent before.
pub(crate) fn write_publish(
    buffer: &mut Vec<u8>,
    topic: &str,
    packet_id: u16,
    payload: &[u8],
    again: bool,
) -> Result<()> {
    ensure!(topic.len() <= FIELD_BYTES_MAX, "the topic is longer than {FIELD_BYTES_MAX} bytes");
    write_header(buffer, if again { 0x3a } else { 0x32 }, 4 + topic.len() + payload.len());
    write_string(buffer, topic);
    buffer.extend(packet_id.to_be_bytes());
    buffer.extend_from_slice(payload);
    Ok(())
}

/// Appends a SUBSCRIBE to one filter with QoS 1.
pub(crate) fn write_subscribe(buffer: &mut Vec<u8>, filter: &str, packet_id: u16) -> Result<()> {
    ensure!(filter.len() <= FIELD_BYTES_MAX, "the filter is longer than {FIELD_BYTES_MAX} bytes");
    write_header(buffer, 0x82, 5 + filter.len());
    buffer.extend(packet_id.to_be_bytes());
    write_string(buffer, filter);
    buffer.push(1);
    Ok(())
}

/// Appends a PUBACK.
pub(crate) fn write_puback(buffer: &mut Vec<u8>, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    buffer.extend([0x40, 2, high, low]);
}

/// Appends a PINGREQ.
pub(crate) fn write_ping(buffer: &mut Vec<u8>) {
    buffer.extend([0xc0, 0]);
}

/// Appends a DISCONNECT.
pub(crate) fn write_disconnect(buffer: &mut Vec<u8>) {
    buffer.extend([0xe0, 0]);
}

fn write_header(buffer: &mut Vec<u8>, first: u8, mut length: usize) {
    buffer.push(first);
    loop {
        let digit = u8::try_from(length % 128).unwrap_or(0);
        length /= 128;
        buffer.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            return;
        }
    }
}

/// The callers check the length.
fn write_string(buffer: &mut Vec<u8>, text: &str) {
    buffer.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    buffer.extend_from_slice(text.as_bytes());
}

/// Reads the first packet of `bytes` and its length; `None` when it is not complete yet.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>> {
    let Some((length, header)) = read_length(bytes)? else { return Ok(None) };
    ensure!(
        length <= PACKET_BYTES_MAX,
        "the gateway sent a packet of {length} bytes, over {PACKET_BYTES_MAX}"
    );
    let (Some(first), Some(body)) = (bytes.first(), bytes.get(header..header + length)) else {
        return Ok(None);
    };
    let packet = match first >> 4 {
        2 => {
            Packet::ConnAck { code: *body.get(1).ok_or_else(|| anyhow::anyhow!("a CONNACK without a code"))? }
        }
        3 => read_publish(*first, body)?,
        4 => Packet::PubAck { packet_id: read_u16(body)? },
        9 | 11 | 13 => Packet::Other,
        other => bail!("the gateway sent a packet of type {other}, which no server sends"),
    };
    Ok(Some((packet, header + length)))
}

/// The remaining length and the number of bytes of the fixed header.
fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for place in 0..4 {
        let Some(byte) = bytes.get(1 + place) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((length, 2 + place)));
        }
    }
    bail!("a packet's length has more than four bytes")
}

fn read_publish(first: u8, body: &[u8]) -> Result<Packet<'_>> {
    let topic_end = 2 + usize::from(read_u16(body)?);
    let (Some(topic), Some(rest)) = (body.get(2..topic_end), body.get(topic_end..)) else {
        bail!("a PUBLISH is shorter than its topic");
    };
    let topic = std::str::from_utf8(topic)?;
    match first >> 1 & 3 {
        0 => Ok(Packet::Publish { topic, packet_id: None, payload: rest }),
        1 => Ok(Packet::Publish {
            topic,
            packet_id: Some(read_u16(rest)?),
            payload: rest.get(2..).unwrap_or_default(),
        }),
        qos => bail!("a PUBLISH of QoS {qos} in answer to one of QoS 1"),
    }
}

fn read_u16(bytes: &[u8]) -> Result<u16> {
    match bytes {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => bail!("a packet ends within a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_comes_back_as_it_was_written() {
        for payload in [&b""[..], &[7; 100], &[7; 20_000]] {
            for again in [false, true] {
                let mut bytes = Vec::new();
                write_publish(&mut bytes, "kp1/v/dcx/t/json/1", 513, payload, again).unwrap();
                let packet = Packet::Publish { topic: "kp1/v/dcx/t/json/1", packet_id: Some(513), payload };
                assert_eq!(read(&bytes).unwrap(), Some((packet, bytes.len())));
                assert_eq!(bytes[0] & 0x08 != 0, again);
                for cut in 0..bytes.len().min(40) {
                    assert_eq!(read(&bytes[..cut]).unwrap(), None, "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_standard() {
        let mut bytes = Vec::new();
        write_connect(&mut bytes, "ab", None, 300).unwrap();
        assert_eq!(bytes, [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 1, 44, 0, 2, b'a', b'b']);
        bytes.clear();
        write_connect(&mut bytes, "a", Some(("u@t", "pw")), 0).unwrap();
        let head = [0x10, 22, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 0, 0, 1, b'a'];
        assert_eq!(bytes, [&head[..], &[0, 3], b"u@t", &[0, 2], b"pw"].concat());
        let long = "x".repeat(FIELD_BYTES_MAX + 1);
        assert!(write_connect(&mut bytes, "a", Some(("u@t", &long)), 0).is_err());
        bytes.clear();
        write_subscribe(&mut bytes, "a/+", 7).unwrap();
        assert_eq!(bytes, [0x82, 8, 0, 7, 0, 3, b'a', b'/', b'+', 1]);
        bytes.clear();
        write_puback(&mut bytes, 0x0102);
        write_ping(&mut bytes);
        write_disconnect(&mut bytes);
        assert_eq!(bytes, [0x40, 2, 1, 2, 0xc0, 0, 0xe0, 0]);
        assert_eq!(read(&[0x20, 2, 0, 5]).unwrap(), Some((Packet::ConnAck { code: 5 }, 4)));
        assert_eq!(read(&bytes).unwrap(), Some((Packet::PubAck { packet_id: 0x0102 }, 4)));
        assert_eq!(read(&[0xd0, 0, 9]).unwrap(), Some((Packet::Other, 2)));
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [
            &[0x40, 1, 0][..],
            &[0x20, 1, 0],
            &[0x30, 2, 0, 9],
            &[0x34, 4, 0, 0, 0, 1],
            &[0x40, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0xff, 0xff, 0xff, 0x7f],
            &[0x10, 0],
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
