//! The payload of `/json` (2/DCP): an array of samples, or one sample that is not an array.

use bytes::Bytes;
use extension::Refusal;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Checks the JSON and cuts it into samples, without copying. Elements of the outer array are samples of any JSON
/// type, so `[[85,34]]` is one sample that is an array.
pub(crate) fn parse(payload: &Bytes, samples_max: usize) -> Result<Vec<Bytes>, Refusal> {
    let text = std::str::from_utf8(payload).map_err(|error| {
        Refusal::bad_request(format!("the payload is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    match text.trim_start_matches([' ', '\t', '\n', '\r']).as_bytes().first() {
        None => Err(Refusal::bad_request("the payload is empty; send a JSON sample or an array of samples")),
        Some(b'[') => batch(payload, text, samples_max),
        Some(_) => match serde_json::from_str::<&RawValue>(text) {
            Ok(sample) => Ok(vec![payload.slice_ref(sample.get().as_bytes())]),
            Err(error) => Err(Refusal::bad_request(format!("the sample is not valid JSON: {error}"))),
        },
    }
}

fn batch(payload: &Bytes, text: &str, samples_max: usize) -> Result<Vec<Bytes>, Refusal> {
    let mut batch = Batch { payload, samples: Vec::new(), samples_max, too_many: false };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = deserializer.deserialize_seq(&mut batch).and_then(|()| deserializer.end());
    match parsed {
        Ok(()) => Ok(batch.samples),
        Err(_) if batch.too_many => Err(Refusal::new(
            413,
            format!(
                "the batch has more than {samples_max} samples (dcx.batch_samples_max); send it in parts"
            ),
        )),
        Err(error) => {
            let index = batch.samples.len();
            Err(Refusal::bad_request(format!(
                "the batch is not valid JSON at sample {index} (counted from 0): {error}"
            )))
        }
    }
}

struct Batch<'a> {
    payload: &'a Bytes,
    samples: Vec<Bytes>,
    samples_max: usize,
    too_many: bool,
}

impl<'de> Visitor<'de> for &mut Batch<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array of samples")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut samples: A) -> Result<(), A::Error> {
        while let Some(sample) = samples.next_element_seed(Sample)? {
            if self.samples.len() == self.samples_max {
                self.too_many = true;
                return Err(serde::de::Error::custom("too many samples"));
            }
            self.samples.push(self.payload.slice_ref(sample.get().as_bytes()));
        }
        Ok(())
    }
}

/// One element, as the text that it is.
struct Sample;

impl<'de> DeserializeSeed<'de> for Sample {
    type Value = &'de RawValue;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<&'de RawValue, D::Error> {
        serde::Deserialize::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples(text: &str) -> Result<Vec<String>, Refusal> {
        let samples = parse(&Bytes::copy_from_slice(text.as_bytes()), 3)?;
        Ok(samples.iter().map(|sample| String::from_utf8(sample.to_vec()).unwrap()).collect())
    }

    #[test]
    fn a_single_sample_is_of_any_type_but_an_array() {
        for sample in ["{\"a\":1}", "15", "\"x\"", "true", "null", "-1.5e3"] {
            assert_eq!(samples(sample).unwrap(), [sample]);
            assert_eq!(samples(&format!(" \n{sample}\t")).unwrap(), [sample]);
        }
    }

    #[test]
    fn an_array_is_a_batch() {
        assert_eq!(
            samples("[{\"key\":\"value\"}, 15, [\"an\", 13]]").unwrap(),
            ["{\"key\":\"value\"}", "15", "[\"an\", 13]"]
        );
        assert_eq!(samples("[[85,34]]").unwrap(), ["[85,34]"]);
        assert!(samples("[]").unwrap().is_empty());
    }

    #[test]
    fn errors_say_which_sample_and_why() {
        let error = samples("[1, {\"a\":}, 3]").unwrap_err();
        assert_eq!(error.status_code, 400);
        assert!(error.reason_phrase.contains("sample 1"), "{error}");
        assert!(error.reason_phrase.contains("line 1 column"), "{error}");
        assert_eq!(samples("[1,2,3,4]").unwrap_err().status_code, 413);
        for bad in ["", " ", "{", "[1,]", "[1] 2", "{} {}", "nul", "[1"] {
            assert_eq!(samples(bad).unwrap_err().status_code, 400, "{bad}");
        }
        assert_eq!(parse(&Bytes::from_static(b"\"\xff\""), 3).unwrap_err().status_code, 400);
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        let deep = "[".repeat(100_000);
        assert_eq!(samples(&deep).unwrap_err().status_code, 400);
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            drop(samples(&text));
        }

        #[test]
        fn samples_are_what_serde_json_sees(values in proptest::collection::vec(any::<i32>(), 0..3)) {
            let text = serde_json::to_string(&values).unwrap();
            let expected: Vec<String> = values.iter().map(ToString::to_string).collect();
            prop_assert_eq!(samples(&text).unwrap(), expected);
        }
    }
}
