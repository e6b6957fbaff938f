//! Any bytes are read as a record or refused, and what is read is written and read the same again. The first byte chooses
//! the record.
#![no_main]

use ism::CATALOGUE;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((choice, message)) = bytes.split_first() else { return };
    let entry = &CATALOGUE[usize::from(*choice) % CATALOGUE.len()];
    if let Ok(again) = (entry.recode)(&message.to_vec().into()) {
        assert_eq!((entry.recode)(&again).as_ref(), Ok(&again));
    }
});
