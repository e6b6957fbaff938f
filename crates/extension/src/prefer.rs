//! `Prefer: wait=N` (RFC 7240): a device says in HTTP how long it likes to wait for its answer, and the gateway tells the extension
//! in a NATS header of that name.

/// The header, in HTTP as in NATS.
pub const PREFER: &str = "Prefer";

/// The seconds that the values of the header ask to wait. Only the first `wait` counts, and one that is no number asks for nothing.
#[must_use]
pub fn preferred_wait_s<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<u32> {
    let is_wait = |preference: &str| {
        let (name, value) = preference.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| number(value.trim()))
    };
    values.into_iter().find_map(|value| {
        let mut quoted = false;
        // A comma within quotes separates nothing.
        let mut preferences = value.split(move |c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        preferences.find_map(|preference| is_wait(preference.split(';').next()?))
    })?
}

fn number(value: &str) -> Option<u32> {
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let digits = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
    // More seconds than there can be are still a wish to wait for long.
    digits.then(|| bare.parse().unwrap_or(u32::MAX)).filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_wait_counts() {
        for (values, expected) in [
            (&["wait=10"][..], Some(10)),
            (&["respond-async, WAIT = \"7\"; x=1"], Some(7)),
            (&["return=minimal", "wait=3, wait=4"], Some(3)),
            (&["note=\"a, wait=5\", wait=6"], Some(6)),
            (&["wait=99999999999999"], Some(u32::MAX)),
            (&["wait=soon, wait=4"], None),
            (&["wait"], None),
            (&["wait="], None),
            (&["wait=-1"], None),
            (&["wait=+1"], None),
            (&["wait=0"], None),
            (&["awaits=5"], None),
            (&[], None),
        ] {
            assert_eq!(preferred_wait_s(values.iter().copied()), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_the_reader(value in "[a-z=,;\" 0-9]{0,40}") {
            let _ = preferred_wait_s([value.as_str()]);
        }
    }
}
