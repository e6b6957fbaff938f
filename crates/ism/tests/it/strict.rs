//! Bytes that are no record are refused, whatever they are.

use bytes::Bytes;
use ism::{
    AuthoritiesResponse, Authority, CATALOGUE, DataSamplesEvent, DecodeError, Fault, MAX_ITEMS,
    MetadataUpdatedEvent, Record, TimeSeriesEvent,
};
use proptest::prelude::*;

use crate::oracle;
use crate::vectors::vectors;

#[test]
fn cut_and_lengthened_messages_are_refused() {
    for entry in CATALOGUE {
        for vector in vectors(entry) {
            for length in 0..vector.bytes.len() {
                let outcome = (entry.recode)(&vector.bytes.slice(..length));
                assert!(outcome.is_err(), "{} cut to {length} bytes", entry.record);
            }
            let longer: Bytes = [&vector.bytes[..], b"\0"].concat().into();
            assert_eq!((entry.recode)(&longer).unwrap_err().fault, Fault::Trailing(1), "{}", entry.record);
        }
    }
}

/// A `DataSamplesEvent` with empty strings before the given bytes of its last field.
fn samples(tail: &[u8]) -> Result<DataSamplesEvent, DecodeError> {
    DataSamplesEvent::decode(&[&[0; 6], tail].concat().into())
}

/// A `TimeSeriesEvent` whose one point has the given bytes as its values.
fn values(tail: &[u8]) -> Result<TimeSeriesEvent, DecodeError> {
    TimeSeriesEvent::decode(&[&[0; 6][..], &[2, 0, 0], tail, &[0]].concat().into())
}

#[test]
fn arrays_may_come_in_blocks() {
    assert_eq!(samples(&[0]).unwrap().data_samples, Vec::<Bytes>::new());
    let expected = [&b"a"[..], b"", b"b"];
    assert_eq!(samples(&[4, 2, b'a', 0, 2, 2, b'b', 0]).unwrap().data_samples, expected);
    // A negative count is followed by the size of the block.
    assert_eq!(samples(&[3, 6, 2, b'a', 0, 2, 2, b'b', 0]).unwrap().data_samples, expected);
    for size in [4, 8] {
        assert_eq!(samples(&[3, size, 2, b'a', 0, 2, 2, b'b', 0]).unwrap_err().fault, Fault::BlockSize);
    }
}

#[test]
fn lengths_are_compared_with_what_is_left() {
    let lowest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let highest = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(samples(&[2, 1]).unwrap_err().fault, Fault::Length(-1));
    assert_eq!(samples(&[2, 4, b'a']).unwrap_err().fault, Fault::Length(2));
    assert_eq!(samples(&[&[2][..], &highest].concat()).unwrap_err().fault, Fault::Length(i64::MAX));
    assert_eq!(samples(&highest).unwrap_err().fault, Fault::Length(i64::MAX));
    assert_eq!(samples(&[&lowest[..], &[0]].concat()).unwrap_err().fault, Fault::Length(i64::MIN));
    assert_eq!(samples(&[3, 1]).unwrap_err().fault, Fault::Length(-1));
    assert_eq!(samples(&[0xff; 10]).unwrap_err().fault, Fault::TooLongNumber);
    assert_eq!(samples(&[0x80; 11]).unwrap_err().fault, Fault::TooLongNumber);
}

#[test]
fn the_items_of_a_message_are_bounded() {
    let most =
        DataSamplesEvent { data_samples: vec![Bytes::new(); MAX_ITEMS], ..DataSamplesEvent::default() };
    assert_eq!(DataSamplesEvent::decode(&most.encode()).unwrap(), most);
    let more = DataSamplesEvent { data_samples: vec![Bytes::new(); MAX_ITEMS + 1], ..most };
    assert_eq!(DataSamplesEvent::decode(&more.encode()).unwrap_err().fault, Fault::TooManyItems);
    // In blocks too.
    let blocks = [2, 0].repeat(MAX_ITEMS + 1);
    assert_eq!(samples(&[&blocks[..], &[0]].concat()).unwrap_err().fault, Fault::TooManyItems);
}

#[test]
fn values_are_checked() {
    let one = |value: &[u8]| {
        values(&[&[2, 2, b'k'], value, &[0]].concat()).map(|event| event.data_points[0].values["k"].clone())
    };
    assert_eq!(one(&[0, 1]), Ok(ism::Value::Boolean(true)));
    assert_eq!(one(&[14]), Ok(ism::Value::Null));
    assert_eq!(one(&[0, 2]).unwrap_err().fault, Fault::NotABoolean(2));
    assert_eq!(one(&[16]).unwrap_err().fault, Fault::NoSuchBranch(8));
    assert_eq!(one(&[1]).unwrap_err().fault, Fault::NoSuchBranch(-1));
    assert_eq!(one(&[2, 0x80, 0x80, 0x80, 0x80, 0x10]).unwrap_err().fault, Fault::NotAnInt(1 << 31));
    assert_eq!(one(&[10, 2, 0xff]).unwrap_err().fault, Fault::NotUtf8);
    assert_eq!(values(&[4, 2, b'k', 14, 2, b'k', 14, 0]).unwrap_err().fault, Fault::DuplicateKey);
}

/// A `MetadataUpdatedEvent` whose removed keys have the given bytes and that is empty otherwise.
fn removed(map: &[u8]) -> Result<MetadataUpdatedEvent, DecodeError> {
    MetadataUpdatedEvent::decode(&[&[0; 5][..], map, &[0, 0, 0]].concat().into())
}

#[test]
fn values_of_a_map_may_be_null() {
    let keys = removed(&[4, 2, b'a', 0, 2, b'b', 2, 2, b'1', 0]).unwrap().removed;
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), [("a".into(), None), ("b".into(), Some("1".into()))]);
    assert_eq!(removed(&[2, 2, b'a', 4, 0]).unwrap_err().fault, Fault::NoSuchBranch(2));
    assert_eq!(removed(&[2, 2, b'a', 1, 0]).unwrap_err().fault, Fault::NoSuchBranch(-1));
    // The same key with another value, in another block.
    assert_eq!(removed(&[2, 2, b'a', 0, 2, 2, b'a', 2, 0, 0]).unwrap_err().fault, Fault::DuplicateKey);
    assert_eq!(removed(&[126, 2, b'a', 0, 0]).unwrap_err().fault, Fault::Length(63));
}

#[test]
fn arrays_of_records_are_bounded_and_their_errors_have_a_place() {
    let page = |items| AuthoritiesResponse {
        authorities: vec![Authority::default(); items],
        ..AuthoritiesResponse::default()
    };
    assert_eq!(AuthoritiesResponse::decode(&page(MAX_ITEMS).encode()), Ok(page(MAX_ITEMS)));
    let more = AuthoritiesResponse::decode(&page(MAX_ITEMS + 1).encode()).unwrap_err();
    assert_eq!((more.fault, more.place), (Fault::TooManyItems, Some(("AuthoritiesResponse", "authorities"))));
    let inner = AuthoritiesResponse::decode(&vec![0, 0, 0, 2, 2, 0xff, 0, 0, 0, 0, 0].into()).unwrap_err();
    assert_eq!((inner.fault, inner.place), (Fault::NotUtf8, Some(("Authority", "tenant_id"))));
}

#[test]
fn an_error_says_what_is_wrong_where() {
    let inner = values(&[2, 2, b'k', 16, 0]).unwrap_err();
    assert_eq!(
        inner.to_string(),
        "this is no TimeSeriesEvent: DataPoint.values: the union has no branch 8 (at byte 13)"
    );
    let tail = samples(&[0, 0]).unwrap_err();
    assert_eq!(tail.to_string(), "this is no DataSamplesEvent: 1 bytes follow the record (at byte 7)");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        for entry in CATALOGUE {
            if let Ok(again) = (entry.recode)(&bytes) {
                prop_assert_eq!((entry.recode)(&again), Ok(again));
            }
        }
    }

    #[test]
    fn what_is_read_of_a_damaged_message_is_what_the_oracle_reads(at: prop::sample::Index, byte: u8, line: prop::sample::Index) {
        let entry = line.get(CATALOGUE);
        let schema = oracle::schema(entry);
        for vector in vectors(entry) {
            let mut bytes = vector.bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(again) = (entry.recode)(&bytes.clone().into()) {
                let read = |bytes| oracle::to_json(&schema, &oracle::decode(&schema, bytes));
                prop_assert_eq!(read(&bytes), read(&again));
            }
        }
    }
}
