//! Layered configuration: defaults in the code, then a TOML file, then the environment, then secrets from files.
//!
//! `BANDAR__SECTION__KEY=value` sets one key; `BANDAR__SECTION__KEY__FILE=path` takes the value from a file, which is
//! how secrets are mounted. `NATS_URL` and `DATABASE_URL` are short for `nats.url` and `postgres.url`. Every fault is
//! reported at once, each with the place that it came from.

use std::fmt;
use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::de::DeserializeOwned;
use serde_json::Value;

const ENV_PREFIX: &str = "BANDAR__";
const FILE_SUFFIX: &str = "__FILE";
const SHORT_NAMES: [(&str, &str); 2] = [("NATS_URL", "nats.url"), ("DATABASE_URL", "postgres.url")];

/// Something wrong in the configuration: the key, what is wrong, where the value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, as `section.key`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
    /// Where the value came from, if it was set anywhere.
    pub origin: Option<String>,
}

impl Fault {
    /// A fault that a section found in itself, written `section.key ...`.
    pub(crate) fn found(text: String) -> Self {
        let (key, message) = text.split_once(' ').unwrap_or(("", &text));
        Self { key: key.to_owned(), message: message.to_owned(), origin: None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.key, self.message)?;
        self.origin.as_ref().map_or(Ok(()), |origin| write!(formatter, " (from {origin})"))
    }
}

/// All faults of a configuration.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the configuration has {} fault(s)", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(formatter, "\n  {fault}"))
    }
}

/// The merged configuration of a process.
#[derive(Debug, Clone)]
pub struct Settings {
    figment: Figment,
    /// What could not even be read: a broken file, a missing secret.
    faults: Vec<Fault>,
}

impl Settings {
    /// Reads the file (if one is named) and the environment; `overrides` (`section.key`, value) win over both. What
    /// cannot be read is kept and reported together with all other faults.
    #[must_use]
    pub fn load(file: Option<&Path>, overrides: Vec<(String, String)>) -> Self {
        Self::from_layers(file, std::env::vars().collect(), overrides)
    }

    /// As [`Settings::load`], from a given environment.
    #[must_use]
    pub fn from_layers(
        file: Option<&Path>,
        environment: Vec<(String, String)>,
        overrides: Vec<(String, String)>,
    ) -> Self {
        let mut faults = Vec::new();
        let mut figment = Figment::new();
        if let Some(file) = file {
            let content = Figment::from(Toml::file_exact(file));
            match content.extract::<figment::value::Value>() {
                Ok(_) => figment = content,
                Err(error) => faults.push(Fault {
                    key: file.display().to_string(),
                    message: format!("the file cannot be read: {}", error.kind),
                    origin: None,
                }),
            }
        }
        for (name, value) in environment {
            let Some((key, value)) = from_environment(&name, value, &mut faults) else { continue };
            figment = figment.merge(Layer { origin: format!("environment variable {name}"), key, value });
        }
        for (key, value) in overrides {
            figment = figment.merge(Layer { origin: "the command line".to_owned(), key, value });
        }
        Self { figment, faults }
    }

    /// What could not be read at all.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// One section as a structure; the defaults of the structure fill what is not set.
    pub fn section<C: DeserializeOwned>(&self, section: &str) -> Result<C, Vec<Fault>> {
        let mut value = self
            .figment
            .extract_inner::<Value>(section)
            .unwrap_or_else(|_| Value::Object(Default::default()));
        let mut faults = Vec::new();
        // Serde stops at the first fault. To report them all, a faulty key is taken out and the rest is tried again.
        loop {
            let error = match serde_path_to_error::deserialize::<_, C>(&value) {
                Ok(config) if faults.is_empty() => return Ok(config),
                Ok(_) => return Err(faults),
                Err(error) => error,
            };
            let message = error.inner().to_string();
            let mut path: Vec<String> =
                error.path().iter().map(ToString::to_string).filter(|key| key != ".").collect();
            if let Some(unknown) = unknown_field(&message).filter(|unknown| path.last() != Some(unknown)) {
                path.push(unknown);
            } else if let Some(text) = find(&mut value, &path)
                && let Some(parsed) = parse(text)
            {
                // From the environment everything comes as text, and only here it shows that something else is wanted.
                *text = parsed;
                continue;
            }
            let key =
                std::iter::once(section.to_owned()).chain(path.iter().cloned()).collect::<Vec<_>>().join(".");
            let origin = self.figment.find_metadata(&key).map(describe);
            faults.push(Fault { key, message, origin });
            if !remove(&mut value, &path) {
                return Err(faults);
            }
        }
    }

    /// A fault for each section that is set but that nothing reads.
    #[must_use]
    pub fn unknown_sections(&self, known: &[&str]) -> Vec<Fault> {
        let Ok(Value::Object(sections)) = self.figment.extract::<Value>() else { return Vec::new() };
        let unknown = sections.keys().filter(|section| !known.contains(&section.as_str()));
        let fault = |section: &String| Fault {
            key: section.clone(),
            message: format!("no such section; the sections are {}", known.join(", ")),
            origin: self.figment.find_metadata(section).map(describe),
        };
        unknown.map(fault).collect()
    }
}

/// One key of the configuration, as a figment provider that knows where it came from.
struct Layer {
    origin: String,
    key: String,
    value: String,
}

impl figment::Provider for Layer {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<figment::value::Map<figment::Profile, figment::value::Dict>> {
        figment::Provider::data(&Serialized::default(&self.key, &self.value))
    }
}

fn from_environment(name: &str, value: String, faults: &mut Vec<Fault>) -> Option<(String, String)> {
    if let Some((_, key)) = SHORT_NAMES.iter().find(|(short, _)| *short == name) {
        return Some(((*key).to_owned(), value));
    }
    let key = name.strip_prefix(ENV_PREFIX)?;
    let dotted = |key: &str| key.replace("__", ".").to_lowercase();
    let Some(key) = key.strip_suffix(FILE_SUFFIX) else { return Some((dotted(key), value)) };
    match std::fs::read_to_string(&value) {
        Ok(content) => Some((dotted(key), content.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => {
            let message = format!("cannot read the file {value}: {error}");
            faults.push(Fault {
                key: dotted(key),
                message,
                origin: Some(format!("environment variable {name}")),
            });
            None
        }
    }
}

fn describe(metadata: &figment::Metadata) -> String {
    metadata.source.as_ref().map_or_else(|| metadata.name.to_string(), ToString::to_string)
}

fn unknown_field(message: &str) -> Option<String> {
    let (name, _) = message.strip_prefix("unknown field `")?.split_once('`')?;
    Some(name.to_owned())
}

fn find<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, key| value.get_mut(key))
}

/// Text as the number, truth value, list or table that it spells in TOML; `None` when it spells none.
fn parse(text: &Value) -> Option<Value> {
    let parsed: figment::value::Value = text.as_str()?.parse().ok()?;
    let parsed = serde_json::to_value(parsed).ok()?;
    (!parsed.is_string()).then_some(parsed)
}

fn remove(value: &mut Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Object(map), [key]) => map.remove(key).is_some(),
        (Value::Object(map), [key, rest @ ..]) => map.get_mut(key).is_some_and(|value| remove(value, rest)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        port: u16,
        name: String,
        items_max: u32,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { port: 1883, name: "kpc".to_owned(), items_max: 10 }
        }
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_later_layer_wins_and_defaults_fill_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bandar.toml");
        std::fs::write(&file, "[sample]\nport = 1\nitems_max = 3\n").unwrap();
        let environment = environment(&[("BANDAR__SAMPLE__PORT", "2"), ("HOME", "/root")]);
        let overrides = vec![("sample.name".to_owned(), "x-y".to_owned())];
        let sample: Sample =
            Settings::from_layers(Some(&file), environment, overrides).section("sample").unwrap();
        assert_eq!((sample.port, sample.name.as_str(), sample.items_max), (2, "x-y", 3));
    }

    #[test]
    fn every_fault_is_reported_with_its_origin() {
        let environment = environment(&[
            ("BANDAR__SAMPLE__PORT", "many"),
            ("BANDAR__SAMPLE__ITEMS_MAX", "-1"),
            ("BANDAR__SAMPLE__COLOUR", "red"),
        ]);
        let settings = Settings::from_layers(None, environment, vec![]);
        let faults = settings.section::<Sample>("sample").unwrap_err();
        let mut keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["sample.colour", "sample.items_max", "sample.port"]);
        assert!(
            faults.iter().all(|fault| fault.origin.as_ref().is_some_and(|o| o.contains("BANDAR__SAMPLE__"))),
            "{faults:?}"
        );
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "s3cret\n").unwrap();
        let environment = environment(&[("BANDAR__SAMPLE__NAME__FILE", file.to_str().unwrap())]);
        let sample: Sample = Settings::from_layers(None, environment, vec![]).section("sample").unwrap();
        assert_eq!(sample.name, "s3cret");
        let missing = vec![("BANDAR__SAMPLE__NAME__FILE".to_owned(), "/nowhere/at/all".to_owned())];
        assert_eq!(Settings::from_layers(None, missing, vec![]).faults()[0].key, "sample.name");
    }

    #[test]
    fn sections_that_nothing_reads_are_faults() {
        let settings = Settings::from_layers(None, environment(&[("BANDAR__KCP__PORT", "1")]), vec![]);
        assert_eq!(settings.unknown_sections(&["kpc"])[0].key, "kcp");
        assert!(settings.unknown_sections(&["kcp"]).is_empty());
    }

    #[test]
    fn text_stays_text_where_text_is_wanted() {
        for secret in ["123456", "true", "[1]", "1e5", "0123", "{a=1}"] {
            let environment = environment(&[("BANDAR__SAMPLE__NAME", secret), ("BANDAR__SAMPLE__PORT", "7")]);
            let sample: Sample = Settings::from_layers(None, environment, vec![]).section("sample").unwrap();
            assert_eq!((sample.name.as_str(), sample.port), (secret, 7));
        }
    }

    #[test]
    fn what_cannot_be_read_hides_no_other_fault() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bandar.toml");
        std::fs::write(&file, "[sample\nport = 1\n").unwrap();
        let environment = environment(&[
            ("BANDAR__SAMPLE__NAME__FILE", "/nowhere/at/all"),
            ("BANDAR__SAMPLE__PORT", "many"),
        ]);
        let settings = Settings::from_layers(Some(&file), environment, vec![]);
        assert_eq!(settings.faults().len(), 2, "{:?}", settings.faults());
        assert_eq!(settings.section::<Sample>("sample").unwrap_err()[0].key, "sample.port");
    }
}
