//! Reading a message, strictly and within bounds: no length is trusted before it is compared with what is left of the
//! message, and nothing may follow the record.

use bytes::Bytes;

use crate::codec::Field;
use crate::{DecodeError, Fault};

/// The most items that all arrays and maps of one message may hold together.
pub const MAX_ITEMS: usize = 100_000;

/// Reads a whole message as one record.
pub(crate) fn decode<T: Field>(record: &'static str, bytes: &Bytes) -> Result<T, DecodeError> {
    let mut reader = Reader { bytes, offset: 0, items_left: MAX_ITEMS, place: None };
    let value = T::read(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|fault| DecodeError { record, place: reader.place, offset: reader.offset, fault })
}

/// A position in a message.
pub(crate) struct Reader<'a> {
    bytes: &'a Bytes,
    offset: usize,
    items_left: usize,
    place: Option<(&'static str, &'static str)>,
}

impl<'a> Reader<'a> {
    /// Notes where reading failed; the innermost place stays.
    #[cold]
    pub(crate) fn fail(&mut self, record: &'static str, field: &'static str, fault: Fault) -> Fault {
        self.place.get_or_insert((record, field));
        fault
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    fn end(&self) -> Result<(), Fault> {
        if self.left() == 0 { Ok(()) } else { Err(Fault::Trailing(self.left())) }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.offset).ok_or(Fault::Truncated)?;
        self.offset += 1;
        Ok(byte)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let end = self.offset.checked_add(length).ok_or(Fault::Truncated)?;
        let taken = self.bytes.get(self.offset..end).ok_or(Fault::Truncated)?;
        self.offset = end;
        Ok(taken)
    }

    /// A part of the message that shares its memory.
    pub(crate) fn view(&mut self, length: usize) -> Result<Bytes, Fault> {
        let start = self.offset;
        self.take(length)?;
        Ok(self.bytes.slice(start..self.offset))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| Fault::Truncated)
    }

    /// A number in zig-zag varint form, of at most ten bytes.
    pub(crate) fn long(&mut self) -> Result<i64, Fault> {
        let mut bits = 0_u64;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            // The tenth byte has room for one bit only, and none for the mark of an eleventh.
            if shift == 63 && byte > 1 {
                return Err(Fault::TooLongNumber);
            }
            bits |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
            shift += 7;
        }
    }

    /// A number of bytes that the message still has.
    pub(crate) fn length(&mut self) -> Result<usize, Fault> {
        let length = self.long()?;
        self.fits(length)
    }

    fn fits(&self, length: i64) -> Result<usize, Fault> {
        usize::try_from(length).ok().filter(|length| *length <= self.left()).ok_or(Fault::Length(length))
    }

    /// Reads an array or a map block by block. `item` reads one item; `reserve` is told the size of each block, which
    /// is bounded by what is left of the message, because every item takes a byte at least.
    pub(crate) fn blocks<C>(
        &mut self,
        items: &mut C,
        reserve: fn(&mut C, usize),
        item: impl Fn(&mut C, &mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let declared = self.long()?;
            if declared == 0 {
                return Ok(());
            }
            // A negative count is followed by the block's size in bytes, for readers that want to skip it.
            let end = if declared < 0 { Some(self.length()? + self.offset) } else { None };
            let count = self.fits(declared.checked_abs().ok_or(Fault::Length(declared))?)?;
            self.items_left = self.items_left.checked_sub(count).ok_or(Fault::TooManyItems)?;
            reserve(items, count);
            for _ in 0..count {
                item(items, self)?;
            }
            if end.is_some_and(|end| end != self.offset) {
                return Err(Fault::BlockSize);
            }
        }
    }
}
