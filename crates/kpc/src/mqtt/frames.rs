//! The frames of WebSocket (RFC 6455, section 5) as a stream of bytes.
//!
//! The payload of a frame is handed on as it comes, because the library's own transport keeps a frame until it is
//! whole: so a connection takes no more memory than one over TCP, however slowly a client sends a long frame.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::Poll;

use ntex::codec::Encoder as _;
use ntex::io::{FilterBuf, FilterLayer};
use ntex::util::{Bytes, BytesMut};
use ntex::ws::{CloseCode, CloseReason, Codec, Message, Parser};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Longest payload of a control frame in bytes.
const CONTROL_BYTES_MAX: usize = 125;
/// Bytes of a frame's mask.
const MASK_BYTES: usize = 4;

/// A layer of a connection that takes bytes out of binary frames and puts bytes into them.
#[derive(Debug)]
pub(super) struct Frames {
    reader: RefCell<Reader>,
    codec: Codec,
    closing: Cell<Closing>,
}

/// How far the end of the connection has come.
#[derive(Debug, Clone, Copy, Default)]
struct Closing {
    has_sent: bool,
    has_received: bool,
    has_failed: bool,
    /// The code that the client gave.
    code: Option<CloseCode>,
}

/// Takes frames apart.
#[derive(Debug)]
struct Reader {
    payload_max: usize,
    /// The data frame that is being read.
    frame: Option<Frame>,
    /// Whether the next data frame continues a message.
    continues: bool,
    /// Whether the client has said that nothing more comes.
    has_ended: bool,
}

#[derive(Debug)]
struct Frame {
    left: usize,
    is_last: bool,
    /// Begins with what the next byte is masked with.
    mask: [u8; MASK_BYTES],
}

/// The beginning of a frame.
struct Head {
    opcode: u8,
    is_last: bool,
    length: usize,
    mask: [u8; MASK_BYTES],
    /// Its own length.
    size: usize,
}

/// What a client says beside its data.
#[derive(Debug, PartialEq, Eq)]
enum Control {
    Ping(Bytes),
    Close(Option<CloseCode>),
}

/// Why a client is not listened to any longer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Violation {
    #[error("a text frame: MQTT is sent in binary frames")]
    Text,
    #[error("a frame of {0} bytes is longer than any packet may be")]
    TooLong(u64),
    #[error("{0}")]
    Protocol(&'static str),
}

impl Violation {
    fn code(&self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::TooLong(_) => CloseCode::Size,
            Self::Protocol(_) => CloseCode::Protocol,
        }
    }
}

impl Frames {
    pub(super) fn new(payload_max: usize) -> Self {
        let reader = Reader { payload_max, frame: None, continues: false, has_ended: false };
        Self { reader: RefCell::new(reader), codec: Codec::new(), closing: Cell::default() }
    }

    fn note(&self, change: impl FnOnce(&mut Closing)) {
        let mut closing = self.closing.get();
        change(&mut closing);
        self.closing.set(closing);
    }

    /// Sends a close frame, if none has been sent.
    fn say_close(&self, buf: &FilterBuf<'_>, code: Option<CloseCode>) {
        if self.closing.get().has_sent {
            return;
        }
        self.note(|closing| closing.has_sent = true);
        buf.with_write_buffers(|_, output| {
            if self.codec.encode(Message::Close(code.map(CloseReason::from)), output).is_err() {
                // Some codes of a client are none that a server may send. A normal end can always be sent.
                let normal = CloseReason::from(CloseCode::Normal);
                let _ = self.codec.encode(Message::Close(Some(normal)), output);
            }
        });
    }

    fn fail(&self, buf: &FilterBuf<'_>, violation: Violation) -> io::Error {
        self.note(|closing| closing.has_failed = true);
        self.say_close(buf, Some(violation.code()));
        buf.io().close();
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }
}

impl FilterLayer for Frames {
    fn process_read_buf(&self, buf: &FilterBuf<'_>) -> io::Result<()> {
        buf.with_read_buffers(|input, output| {
            let Some(input) = input else { return Ok(()) };
            loop {
                // What follows may lead back here, so nothing stays borrowed.
                let read = self.reader.borrow_mut().read(input, output);
                match read {
                    Ok(None) => return Ok(()),
                    Ok(Some(Control::Ping(payload))) => buf.with_write_buffers(|_, output| {
                        // It fails when a close frame has been sent: then there is nothing more to say.
                        let _ = self.codec.encode(Message::Pong(payload), output);
                    }),
                    Ok(Some(Control::Close(code))) => {
                        self.note(|closing| (closing.has_received, closing.code) = (true, code));
                        buf.io().close();
                        return Ok(());
                    }
                    Err(violation) => return Err(self.fail(buf, violation)),
                }
            }
        })
    }

    fn process_write_buf(&self, buf: &FilterBuf<'_>) -> io::Result<()> {
        buf.with_write_buffers(|input, output| {
            if self.closing.get().has_sent {
                input.clear();
                return Ok(());
            }
            while let Some(page) = input.take() {
                let encoded = self.codec.encode_page(page, output);
                encoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            Ok(())
        })
    }

    fn shutdown(&self, buf: &FilterBuf<'_>) -> io::Result<Poll<()>> {
        let Closing { has_received, has_failed, code, .. } = self.closing.get();
        self.say_close(buf, if has_received { code } else { Some(CloseCode::Normal) });
        // The client's answer is waited for, within the time that the library gives to the end of a connection.
        let is_done = has_received || has_failed || buf.io().is_read_eof();
        Ok(if is_done { Poll::Ready(()) } else { Poll::Pending })
    }
}

impl Reader {
    /// Moves the payload of data frames from `input` to `output`, until a control frame or the end of what has come.
    fn read(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<Option<Control>, Violation> {
        if self.has_ended {
            input.clear();
        }
        loop {
            if let Some(frame) = &mut self.frame {
                frame.take(input, output);
                if frame.left > 0 {
                    return Ok(None);
                }
                self.continues = !frame.is_last;
                self.frame = None;
            }
            let Some(head) = Head::read(input)? else { return Ok(None) };
            match head.opcode {
                TEXT => return Err(Violation::Text),
                BINARY if self.continues => {
                    return Err(Violation::Protocol("a message begins within another"));
                }
                CONTINUATION if !self.continues => {
                    return Err(Violation::Protocol("a frame continues no message"));
                }
                BINARY | CONTINUATION if head.length > self.payload_max => {
                    return Err(Violation::TooLong(head.length.try_into().unwrap_or(u64::MAX)));
                }
                BINARY | CONTINUATION => {
                    input.advance_to(head.size);
                    let Head { length: left, is_last, mask, .. } = head;
                    self.frame = Some(Frame { left, is_last, mask });
                }
                _ => match self.control(&head, input)? {
                    Some(Some(control)) => return Ok(Some(control)),
                    Some(None) => {}
                    None => return Ok(None),
                },
            }
        }
    }

    /// Reads a control frame; none when it has not come wholly, nothing within when there is nothing to do.
    fn control(&mut self, head: &Head, input: &mut BytesMut) -> Result<Option<Option<Control>>, Violation> {
        if !head.is_last || head.length > CONTROL_BYTES_MAX {
            return Err(Violation::Protocol("a control frame is too long or in pieces"));
        }
        let end = head.size + head.length;
        if input.len() < end {
            return Ok(None);
        }
        unmask(&mut input[head.size..end], head.mask);
        input.advance_to(head.size);
        let payload = input.split_to(head.length);
        match head.opcode {
            PING => Ok(Some(Some(Control::Ping(payload)))),
            PONG => Ok(Some(None)),
            CLOSE => {
                self.has_ended = true;
                let reason = Parser::parse_close_payload(&payload)
                    .map_err(|_| Violation::Protocol("a close frame cannot be read"))?;
                Ok(Some(Some(Control::Close(reason.map(|reason| reason.code)))))
            }
            _ => Err(Violation::Protocol("a frame has an unknown opcode")),
        }
    }
}

impl Frame {
    fn take(&mut self, input: &mut BytesMut, output: &mut BytesMut) {
        let count = self.left.min(input.len());
        unmask(&mut input[..count], self.mask);
        output.extend_from_slice(&input[..count]);
        input.advance_to(count);
        self.left -= count;
        self.mask.rotate_left(count % MASK_BYTES);
    }
}

impl Head {
    /// Reads the head of a frame; none when it has not come wholly.
    fn read(input: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = input else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::Protocol("a frame uses an extension that was not agreed upon"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::Protocol("a client's frame is not masked"));
        }
        let (length, rest) = match (second & 0x7F, rest) {
            (126, [a, b, rest @ ..]) => (u16::from_be_bytes([*a, *b]).into(), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), rest),
        };
        let length = usize::try_from(length).map_err(|_| Violation::TooLong(length))?;
        let Some(mask) = rest.first_chunk() else { return Ok(None) };
        let size = input.len() - rest.len() + MASK_BYTES;
        Ok(Some(Self { opcode: first & 0x0F, is_last: first & 0x80 != 0, length, mask: *mask, size }))
    }
}

/// Masks and unmasks, eight bytes at a time.
fn unmask(bytes: &mut [u8], mask: [u8; MASK_BYTES]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100_000;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0xA1, 0xB2, 0xC3, 0xD4];
        let mut bytes = vec![first];
        match payload.len() {
            length @ ..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            length @ ..65_536 => {
                bytes.push(0xFE);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                bytes.push(0xFF);
                bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Reads what comes in pieces of this length.
    fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<Control>), Violation> {
        let mut reader = Reader { payload_max: MAX, frame: None, continues: false, has_ended: false };
        let (mut input, mut output, mut controls) = (BytesMut::new(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(control) = reader.read(&mut input, &mut output)? {
                controls.push(control);
            }
            assert!(input.len() < 14 + CONTROL_BYTES_MAX, "only what cannot be read yet stays");
        }
        Ok((output.to_vec(), controls))
    }

    #[test]
    fn payloads_come_out_whatever_pieces_they_come_in() {
        let long: Vec<u8> = (0..70_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let bytes = [
            frame(0x82, b"one"),
            frame(0x02, b"t"),
            frame(0x89, b"are you there"),
            frame(0x00, b""),
            frame(0x8A, b"nobody asked"),
            frame(0x80, b"wo"),
            frame(0x82, b""),
            frame(0x82, &long[..300]),
            frame(0x82, &long),
            frame(0x88, &[0x03, 0xE9, b'b', b'y', b'e']),
            frame(0x82, b"after the end"),
        ]
        .concat();
        let expected = [b"onetwo", &long[..300], &long].concat();
        for piece in [1, 2, 3, 7, 8, 13, 1_000, bytes.len()] {
            let (output, controls) = read(&bytes, piece).unwrap();
            assert!(output == expected, "in pieces of {piece}");
            let ping = Control::Ping(Bytes::from_static(b"are you there"));
            assert_eq!(controls, [ping, Control::Close(Some(CloseCode::Away))]);
        }
    }

    #[test]
    fn what_is_against_the_rules_is_told_as_soon_as_it_is_seen() {
        let protocol = [
            frame(0xC2, b"x"),
            vec![0x82, 0x01],
            frame(0x80, b"continues nothing"),
            [frame(0x02, b"begins"), frame(0x82, b"again")].concat(),
            frame(0x09, b"ping in pieces"),
            frame(0x89, &[0; 126]),
            frame(0x83, b"?"),
            frame(0x8B, b"?"),
            frame(0x88, b"x"),
            frame(0x88, &[0, 1]),
        ];
        for bytes in protocol {
            assert_eq!(read(&bytes, bytes.len()).unwrap_err().code(), CloseCode::Protocol, "{bytes:?}");
        }
        assert_eq!(read(&frame(0x81, b"text"), 100).unwrap_err(), Violation::Text);
        assert_eq!(read(&frame(0x01, b"text"), 100).unwrap_err(), Violation::Text);
        // The head is enough.
        let long = frame(0x82, &vec![0; MAX + 1]);
        assert_eq!(read(&long[..14], 100).unwrap_err(), Violation::TooLong(100_001));
        let endless = [0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
        assert_eq!(read(&endless, 100).unwrap_err(), Violation::TooLong(u64::MAX));
    }
}
