//! `bandar demo`: an application, an endpoint and a token to try the platform with, made over its REST interfaces.

mod api;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use self::api::Api;
use crate::cli::Demo;
use crate::data::{Credentials, Running, read_json, write_json};

/// The demo's application is found again by this name.
const DISPLAY_NAME: &str = "demo";
const DEFAULT_URL: &str = "http://127.0.0.1:8080";
const DEFAULT_MQTT: &str = "127.0.0.1:1883";

/// The platform that the demo is made in, and where it is remembered.
pub(crate) struct Target {
    url: String,
    mqtt: String,
    api_key: String,
    /// What a shell puts into the API key's header.
    api_key_in_shell: String,
    memory: PathBuf,
}

/// What the demo made: `demo.json`. The token is shown by the platform only once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    application_name: String,
    app_version_name: String,
    endpoint_id: String,
    token: String,
}

impl Target {
    /// The platform that `bandar up` just started.
    pub(crate) fn of_running(running: &Running, data: &Path) -> anyhow::Result<Self> {
        Self::new(running.http.clone(), running.mqtt.clone(), None, data)
    }

    fn of_arguments(arguments: Demo) -> anyhow::Result<Self> {
        let data = arguments.data.path;
        let running: Option<Running> = read_json(&data.join("running.json"))?;
        let (running_http, running_mqtt) = running.map(|running| (running.http, running.mqtt)).unzip();
        let url = arguments.url.or(running_http).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let mqtt = arguments.mqtt.or(running_mqtt).unwrap_or_else(|| DEFAULT_MQTT.to_owned());
        Self::new(url, mqtt, arguments.api_key, &data)
    }

    fn new(url: String, mqtt: String, api_key: Option<String>, data: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
        let data = data.canonicalize().with_context(|| format!("cannot reach {}", data.display()))?;
        let file = data.join("credentials.json");
        let (api_key, api_key_in_shell) = match api_key {
            Some(key) => (key, "$BANDAR_API_KEY".to_owned()),
            None => {
                let credentials: Option<Credentials> = read_json(&file)?;
                let credentials = credentials.with_context(|| {
                    format!(
                        "{} does not exist: name the directory with --data, or the key in BANDAR_API_KEY",
                        file.display()
                    )
                })?;
                let read = format!(
                    r#"$(sed -n 's/.*"apiKey": *"\([^"]*\)".*/\1/p' {})"#,
                    quoted(&file.to_string_lossy())
                );
                (credentials.api_key, read)
            }
        };
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, mqtt, api_key, api_key_in_shell, memory: data.join("demo.json") })
    }
}

/// Makes the demo and prints how to use it.
pub(crate) async fn demo(arguments: Demo) -> anyhow::Result<()> {
    let text = prepare(&Target::of_arguments(arguments)?).await?;
    crate::say(&text)
}

/// Makes what is missing of the demo and says how to use it.
pub(crate) async fn prepare(target: &Target) -> anyhow::Result<String> {
    let api = Api::new(&target.url, &target.api_key)?;
    let remembered: Option<Made> = read_json(&target.memory)?;
    let made = match remembered {
        Some(made) if still_there(&api, &made).await? => made,
        _ => {
            let made = make(&api).await?;
            write_json(&target.memory, &made)?;
            made
        }
    };
    instructions(target, &made)
}

async fn still_there(api: &Api, made: &Made) -> anyhow::Result<bool> {
    let Some(endpoint) = api.endpoint(&made.endpoint_id).await? else { return Ok(false) };
    let versions = api.application_versions(&made.application_name).await?;
    Ok(endpoint == made.app_version_name
        && versions.is_some_and(|versions| versions.contains(&made.app_version_name))
        && api.has_usable_token(&made.endpoint_id).await?)
}

/// Makes an endpoint, in the demo application of an earlier run if there is one.
async fn make(api: &Api) -> anyhow::Result<Made> {
    let application_name = match api.application_called(DISPLAY_NAME).await? {
        Some(name) => name,
        None => api.create_application(DISPLAY_NAME).await?,
    };
    let versions = api.application_versions(&application_name).await?.unwrap_or_default();
    let app_version_name = match versions.into_iter().next() {
        Some(name) => name,
        None => api.create_version(&application_name).await?,
    };
    let (endpoint_id, token) = api.create_endpoint(&app_version_name).await?;
    Ok(Made { application_name, app_version_name, endpoint_id, token })
}

fn instructions(target: &Target, made: &Made) -> anyhow::Result<String> {
    let Some((host, port)) = target.mqtt.rsplit_once(':') else {
        bail!("the MQTT address `{}` must be like 127.0.0.1:1883", target.mqtt);
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Made { application_name, app_version_name, endpoint_id, token } = made;
    let path = format!("kp1/{app_version_name}/dcx/{token}/json");
    let (url, key) = (&target.url, &target.api_key_in_shell);
    Ok(format!(
        r#"
Demo device
  application version  {app_version_name}
  endpoint token       {token}
  endpoint id          {endpoint_id}

Send over MQTT ("received PUBACK" is the receipt: the data is committed):
  mosquitto_pub -d -h {host} -p {port} -q 1 -t {topic} -m '{{"temperature": 21.5, "humidity": 48}}'

Send over HTTP (status 200 is the receipt):
  curl -i -H 'Content-Type: application/json' -d '{{"temperature": 21.6, "humidity": 47}}' {device_url}

Read it back:
  curl -sS -H "x-iamcore-api-key: {key}" {last}

"#,
        topic = quoted(&format!("{path}/1")),
        device_url = quoted(&format!("{url}/{path}")),
        last = quoted(&format!(
            "{url}/epts/api/v1/applications/{application_name}/time-series/last?timeSeriesName=auto~temperature,auto~humidity"
        )),
    ))
}

/// A shell word.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_other_characters_are_quoted() {
        assert_eq!(quoted("kp1/a-v1/dcx/T_1/json/1"), "kp1/a-v1/dcx/T_1/json/1");
        assert_eq!(quoted("/home/o'neil/my data"), r"'/home/o'\''neil/my data'");
        assert_eq!(quoted("http://h/x?a=b~c"), "'http://h/x?a=b~c'");
    }

    #[test]
    fn the_instructions_name_everything() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target {
            url: "http://127.0.0.1:8080".to_owned(),
            mqtt: "[::1]:1884".to_owned(),
            api_key: "k".to_owned(),
            api_key_in_shell: "$K".to_owned(),
            memory: directory.path().join("demo.json"),
        };
        let made = Made {
            application_name: "app".to_owned(),
            app_version_name: "app-v1".to_owned(),
            endpoint_id: "e1".to_owned(),
            token: "T1".to_owned(),
        };
        let text = instructions(&target, &made).unwrap();
        assert!(
            text.contains("mosquitto_pub -d -h ::1 -p 1884 -q 1 -t kp1/app-v1/dcx/T1/json/1 -m"),
            "{text}"
        );
        assert!(text.contains("http://127.0.0.1:8080/kp1/app-v1/dcx/T1/json\n"), "{text}");
        assert!(instructions(&Target { mqtt: "nowhere".to_owned(), ..target }, &made).is_err());
    }
}
