//! Applications and their versions.

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, InvalidId};
use rand::RngExt as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

const GENERATED_NAME_CHARS: usize = 20;
const NAME_ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// Leaves room for the suffix in the names of versions.
const APPLICATION_NAME_CHARS_MAX: usize = 64;
const GROUP_CHARS_MAX: usize = 256;
const SUFFIX_CHARS_MAX: usize = 64;
const DISPLAY_NAME_CHARS_MAX: usize = 256;
const DESCRIPTION_CHARS_MAX: usize = 4_096;

/// Longer numbers are names like others.
const NUMBER_DIGITS_MAX: usize = 9;

/// An application with its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Application {
    /// The unique name; the platform makes it, unless `tekton.app_names_auto_generation` is off.
    pub(crate) name: String,
    /// The name shown to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// What people sort their applications by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    pub(crate) created_date: DateTime<Utc>,
    pub(crate) updated_date: DateTime<Utc>,
    /// In the order in which they were made.
    pub(crate) versions: Vec<AppVersion>,
}

/// A version of an application: what an endpoint's firmware or type speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppVersion {
    /// The unique name, `<application name>-<suffix>`.
    pub(crate) name: String,
    /// The name shown to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
    #[sqlx(rename = "updated_at")]
    pub(crate) updated_date: DateTime<Utc>,
}

/// Texts of an application or version that people give it; a field that is absent stays as it is, `null`
/// clears it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Texts {
    /// Up to 256 characters, no control characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(crate) display_name: Option<Option<String>>,
    /// Up to 4096 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(crate) description: Option<Option<String>>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// A text or name breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("displayName must have at most {DISPLAY_NAME_CHARS_MAX} characters and no control characters")]
    DisplayName,
    #[error(
        "description must have at most {DESCRIPTION_CHARS_MAX} characters and no control characters but tab and line end"
    )]
    Description,
    #[error("group must have at most {GROUP_CHARS_MAX} characters and no control characters")]
    Group,
    #[error("name must be 1 to {APPLICATION_NAME_CHARS_MAX} characters out of a-z 0-9 - _")]
    ApplicationName,
    #[error(
        "name is missing: this platform does not make names of applications (tekton.app_names_auto_generation is off)"
    )]
    NoApplicationName,
    #[error("nameSuffix must be 1 to {SUFFIX_CHARS_MAX} characters out of a-z 0-9")]
    Suffix,
}

impl Texts {
    /// The texts of something new, checked.
    pub(crate) fn new(display_name: Option<String>, description: Option<String>) -> Result<Self, Invalid> {
        let texts = Self { display_name: Some(display_name), description: Some(description) };
        texts.check().map(|()| texts)
    }

    /// Checks lengths and characters.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if !self.display_name.iter().flatten().all(|text| fits(text, DISPLAY_NAME_CHARS_MAX, &[])) {
            return Err(Invalid::DisplayName);
        }
        let lines = &['\n', '\r', '\t'];
        if !self.description.iter().flatten().all(|text| fits(text, DESCRIPTION_CHARS_MAX, lines)) {
            return Err(Invalid::Description);
        }
        Ok(())
    }
}

/// Whether a text keeps to its length. PostgreSQL cannot store NUL; the other control characters have no place
/// in a text for people either.
fn fits(text: &str, chars_max: usize, also: &[char]) -> bool {
    text.chars().count() <= chars_max && !text.chars().any(|c| c.is_control() && !also.contains(&c))
}

/// Checks the length and characters of a group.
pub(crate) fn check_group(group: Option<&str>) -> Result<(), Invalid> {
    if group.is_none_or(|group| fits(group, GROUP_CHARS_MAX, &[])) { Ok(()) } else { Err(Invalid::Group) }
}

/// The name that somebody gives to an application.
pub(crate) fn given_name(name: Option<&str>) -> Result<ApplicationName, Invalid> {
    let name = name.ok_or(Invalid::NoApplicationName)?;
    let parsed = ApplicationName::parse(name).ok().filter(|_| name.len() <= APPLICATION_NAME_CHARS_MAX);
    parsed.ok_or(Invalid::ApplicationName)
}

/// A new application name: 20 random characters, about 103 bits, so that it is unique without asking.
///
/// It holds no `-` or `_`: services of the field map both to one character, and names must not collide there.
pub(crate) fn generate_name() -> Result<ApplicationName, InvalidId> {
    let mut rng = rand::rng();
    let name: String = (0..GENERATED_NAME_CHARS)
        .map(|_| char::from(NAME_ALPHABET[rng.random_range(0..NAME_ALPHABET.len())]))
        .collect();
    ApplicationName::parse(&name)
}

/// What distinguishes a version within its application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suffix(String);

impl Suffix {
    /// Checks the rule `^[a-z0-9]+$` and the length.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let valid = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if text.is_empty() || text.len() > SUFFIX_CHARS_MAX || !valid {
            return Err(Invalid::Suffix);
        }
        Ok(Self(text.to_owned()))
    }

    /// The suffix that the platform gives to the n-th version.
    pub(crate) fn numbered(number: i64) -> Self {
        Self(format!("v{number}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The number, if the suffix could have been made by the platform.
    pub(crate) fn number(&self) -> Option<i64> {
        let digits = self.0.strip_prefix('v').filter(|digits| digits.len() <= NUMBER_DIGITS_MAX)?;
        digits.parse().ok()
    }

    /// The full version name.
    pub(crate) fn version_of(&self, application: &ApplicationName) -> Result<AppVersionName, InvalidId> {
        AppVersionName::parse(&format!("{application}-{}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_twenty_lower_case_letters_and_digits() {
        let name = generate_name().unwrap();
        assert_eq!(name.as_str().len(), 20);
        assert!(name.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
        assert_ne!(name, generate_name().unwrap());
    }

    #[test]
    fn suffixes_keep_to_their_rule() {
        assert_eq!(Suffix::parse("v1"), Ok(Suffix("v1".to_owned())));
        for bad in ["", "V1", "v-1", "v_1", "v.1", "ü", &"a".repeat(65)] {
            assert_eq!(Suffix::parse(bad), Err(Invalid::Suffix), "{bad:?}");
        }
        let application = ApplicationName::parse("abc").unwrap();
        assert_eq!(Suffix::numbered(7).version_of(&application).unwrap().as_str(), "abc-v7");
    }

    #[test]
    fn given_names_leave_room_for_a_suffix() {
        assert_eq!(given_name(Some("smart-meter_2")).unwrap().as_str(), "smart-meter_2");
        for bad in ["", "A", "a.b", "ü", &"a".repeat(65)] {
            assert_eq!(given_name(Some(bad)), Err(Invalid::ApplicationName), "{bad:?}");
        }
        assert_eq!(given_name(None), Err(Invalid::NoApplicationName));
        let longest = Suffix::parse(&"a".repeat(64)).unwrap();
        assert!(longest.version_of(&given_name(Some(&"a".repeat(64))).unwrap()).is_ok());
        assert_eq!(Suffix::numbered(7).number(), Some(7));
        assert_eq!(
            [Suffix::parse("v").unwrap().number(), Suffix::parse("w1").unwrap().number()],
            [None, None]
        );
    }

    #[test]
    fn an_absent_text_differs_from_a_cleared_one() {
        let texts: Texts = serde_json::from_str(r#"{"displayName": null, "other": 1}"#).unwrap();
        assert_eq!(texts, Texts { display_name: Some(None), description: None });
    }

    #[test]
    fn texts_are_bounded() {
        let with = |name: &str, description: &str| Texts {
            display_name: Some(Some(name.to_owned())),
            description: Some(Some(description.to_owned())),
        };
        assert_eq!(with(&"é".repeat(256), "line\nline").check(), Ok(()));
        assert_eq!(with(&"é".repeat(257), "").check(), Err(Invalid::DisplayName));
        assert_eq!(with("a\nb", "").check(), Err(Invalid::DisplayName));
        assert_eq!(with("", "nul \0").check(), Err(Invalid::Description));
        assert_eq!(with("", &"a".repeat(4_097)).check(), Err(Invalid::Description));
    }
}
