//! Any text is read as a path or refused, and what is read is part of it.
#![no_main]

use kp1::{RequestPath, percent_decode};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(path) = RequestPath::parse_topic(text) {
        assert!(
            text.ends_with(path.endpoint_unaware().resource_path)
                || path.endpoint_unaware().request_id.is_some()
        );
        if let Ok(target) = path.endpoint_aware() {
            let token = target.token.unwrap_or_default();
            let start =
                format!("kp1/{}/{}/{token}{}", target.app_version, target.extension, target.resource_path);
            assert!(text.starts_with(&start));
        }
    }
    if let Ok(path) = percent_decode(text) {
        let _ = RequestPath::parse_http(&path);
    }
});
