//! A filter with a target never reaches another endpoint. Filter and topic are divided by a line feed.
#![no_main]

use kp1::TopicFilter;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (filter, topic) = text.split_once('\n').unwrap_or((text, text));
    let Ok(filter) = TopicFilter::parse(filter) else { return };
    let matches = filter.matches(topic);
    if let Ok(target) = filter.target()
        && matches
    {
        let levels: Vec<&str> = topic.split('/').collect();
        assert_eq!(levels[..2], ["kp1", target.app_version]);
        assert_eq!(levels[3], target.token);
        assert!(target.extension.is_none_or(|extension| extension == levels[2]));
    }
});
