//! Start, stop, death and restart.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::json;
use testkit::eventually;

use crate::platform::{Home, PATIENCE, Up, json as read_json, nobody_works_in, send};

async fn make_application(up: &Up) -> String {
    let application = up.post("/tekton/api/v1/applications", &json!({ "displayName": "kept" })).await;
    application["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_first_start_makes_secrets_and_an_interrupt_stops_everything() {
    let home = Home::new();
    let mut up = home.up(&[]).await;
    assert_eq!(up.status("/ready").await, Some(200));
    assert_eq!((up.children("nats-server").len(), up.children("postgres").len()), (1, 1));

    let credentials = read_json(&home.data().join("credentials.json")).unwrap();
    for key in ["tenant", "adminUser", "adminPassword", "apiKey"] {
        assert!(credentials[key].as_str().is_some_and(|value| !value.is_empty()), "{key}");
    }
    for file in ["credentials.json", "secrets.json", "running.json", "nats/nats-server.conf"] {
        let mode = std::fs::metadata(home.data().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert!(up.output().contains(&up.api_key), "the credentials are shown once");

    assert_eq!(up.end(Signal::INT).await.code(), Some(0), "{}", up.log());
    assert!(!home.data().join("running.json").exists());
    nobody_works_in(&home.data()).await;

    let secrets = read_json(&home.data().join("secrets.json")).unwrap();
    let log = up.log();
    let passwords = secrets["natsPasswords"].as_object().unwrap();
    let secrets = secrets.as_object().unwrap().values().filter(|secret| secret.is_string());
    let credentials = [&credentials["apiKey"], &credentials["adminPassword"]];
    for secret in secrets.chain(passwords.values()).chain(credentials) {
        assert!(!log.contains(secret.as_str().unwrap()), "a secret is in the log:\n{log}");
    }

    let again = home.up(&[]).await;
    assert_eq!(again.api_key, up.api_key);
    assert!(!again.output().contains(&up.api_key), "the credentials are shown only once");
}

#[tokio::test]
async fn after_a_kill_no_child_lives_on_and_the_next_start_just_works() {
    let home = Home::new();
    let mut up = home.up(&[]).await;
    let application = make_application(&up).await;
    for wait in [true, false] {
        up.end(Signal::KILL).await;
        if wait {
            nobody_works_in(&home.data()).await;
        }
        // Otherwise the old PostgreSQL is still busy with its last checkpoint when the next bandar starts.
        up = home.up(&[]).await;
        assert_eq!(up.status("/ready").await, Some(200));
        let found = up.get(&format!("/tekton/api/v1/applications/{application}")).await;
        assert_eq!(found["displayName"], "kept");
    }
}

#[tokio::test]
async fn servers_that_die_are_started_again_and_nothing_is_lost() {
    let home = Home::new();
    let up = home.up(&[]).await;
    let application = make_application(&up).await;
    for name in ["postgres", "nats-server"] {
        let before = up.children(name);
        assert_eq!(before.len(), 1, "{name}");
        send(before[0], Signal::KILL);
        eventually("a new server", PATIENCE, async || {
            let after = up.children(name);
            (after.len() == 1 && after != before).then_some(())
        })
        .await;
        eventually("the platform is ready again", PATIENCE, async || {
            (up.status("/ready").await == Some(200)).then_some(())
        })
        .await;
        eventually("the application can be read again", PATIENCE, async || {
            let request =
                reqwest::Client::new().get(format!("{}/tekton/api/v1/applications/{application}", up.http));
            let response = request.header("x-iamcore-api-key", &up.api_key).send().await.ok()?;
            response.status().is_success().then_some(())
        })
        .await;
    }
    assert!(up.log().contains("starting it again"), "{}", up.log());
}

#[tokio::test]
async fn a_data_directory_has_one_user_at_a_time() {
    let home = Home::new();
    let up = home.up(&[]).await;
    let data = home.data();
    let arguments = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen-http",
        "127.0.0.1:0",
        "--listen-mqtt",
        "127.0.0.1:0",
    ];
    let second = crate::platform::bandar(&arguments).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains(&format!("process {}", up.id())) && error.contains("--data"), "{error}");
    assert_eq!(up.status("/ready").await, Some(200));
}
