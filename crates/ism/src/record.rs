//! What all messages have in common, and the macros that declare them.

use std::time::Duration;

use bytes::Bytes;

use crate::DecodeError;

/// A message with an Avro schema.
pub trait Record: Sized {
    /// The record's name, as in its schema.
    const NAME: &'static str;
    /// The text of the schema (`proto-schemas/avro/<protocol>/<name>.avsc`).
    const SCHEMA: &'static str;
    /// The names of the struct's fields, in the schema's order.
    const FIELDS: &'static [&'static str];

    /// The record's bytes.
    fn encode(&self) -> Bytes;

    /// Appends the record's bytes.
    fn encode_into(&self, out: &mut Vec<u8>);

    /// Reads a record that fills the whole message. Fields of type `Bytes` are views into the message.
    ///
    /// # Errors
    /// When the bytes are not exactly one record, or hold more than [`MAX_ITEMS`](crate::MAX_ITEMS) items.
    fn decode(bytes: &Bytes) -> Result<Self, DecodeError>;
}

/// The fields that all messages share (3/ISM). Times are milliseconds since 1970-01-01 UTC.
pub trait Envelope {
    /// The id that follows a message through all services.
    fn correlation_id(&self) -> &str;

    /// When the message was made.
    fn timestamp(&self) -> i64;

    /// Milliseconds from the timestamp to the deadline; 0: there is no deadline.
    fn timeout(&self) -> i64;

    /// The time left before the deadline, zero when it has passed; none when there is no deadline.
    fn remaining(&self, now_ms: i64) -> Option<Duration> {
        if self.timeout() == 0 {
            return None;
        }
        let left = self.timestamp().saturating_add(self.timeout()).saturating_sub(now_ms);
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// Whether the deadline has passed, so that nobody waits for the message any more.
    fn expired(&self, now_ms: i64) -> bool {
        self.remaining(now_ms).is_some_and(|left| left.is_zero())
    }
}

/// Calls a function of a field's form: [`Plain`](crate::codec::Plain) unless the field names another.
macro_rules! form {
    (, $($call:tt)*) => { form!(Plain, $($call)*) };
    ($form:ident, $function:ident($($argument:expr),*)) => {
        <$crate::codec::$form as $crate::codec::Form<_>>::$function($($argument),*)
    };
}

/// Declares a record inside another record. The fields stand in the schema's order, named as there but in snake case; a
/// union with null says which branch is null: `= NullFirst` or `= NullLast`, and for the values of a map `= NullFirstValues`.
macro_rules! part {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty $(= $form:ident)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::codec::Field for $name {
            fn size(&self) -> usize {
                0 $(+ form!($($form)?, size(&self.$field)))*
            }

            fn write(&self, out: &mut Vec<u8>) {
                $(form!($($form)?, write(&self.$field, out));)*
            }

            fn read(reader: &mut $crate::reader::Reader<'_>) -> Result<Self, $crate::Fault> {
                Ok(Self {
                    $($field: form!($($form)?, read(reader))
                        .map_err(|fault| reader.fail(stringify!($name), stringify!($field), fault))?,)*
                })
            }
        }
    };
}

/// Declares a record that is a message: like [`part!`], with the directory of its schema.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident in $directory:literal {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty $(= $form:ident)?,)*
    }) => {
        part! {
            $(#[$meta])*
            pub struct $name {
                $($(#[$field_meta])* pub $field: $type $(= $form)?,)*
            }
        }

        impl $crate::Record for $name {
            const NAME: &'static str = stringify!($name);
            const SCHEMA: &'static str = include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/../../proto-schemas/avro/", $directory, "/", stringify!($name), ".avsc"
            ));
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn encode(&self) -> ::bytes::Bytes {
                let mut out = Vec::with_capacity($crate::codec::Field::size(self));
                $crate::codec::Field::write(self, &mut out);
                out.into()
            }

            fn encode_into(&self, out: &mut Vec<u8>) {
                $crate::codec::Field::write(self, out);
            }

            fn decode(bytes: &::bytes::Bytes) -> Result<Self, $crate::DecodeError> {
                $crate::reader::decode(Self::NAME, bytes)
            }
        }
    };
}

/// Implements [`Envelope`] for records that have all its fields; after `without timeout`, for records that never expire.
macro_rules! envelope {
    (@ $name:ident $($timeout:tt)*) => {
        impl $crate::Envelope for $name {
            fn correlation_id(&self) -> &str {
                &self.correlation_id
            }

            fn timestamp(&self) -> i64 {
                self.timestamp
            }

            $($timeout)*
        }
    };
    (without timeout $($name:ident),*) => { $(envelope! { @ $name fn timeout(&self) -> i64 { 0 } })* };
    ($($name:ident),*) => { $(envelope! { @ $name fn timeout(&self) -> i64 { self.timeout } })* };
}
