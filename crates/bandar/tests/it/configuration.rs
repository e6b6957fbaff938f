//! Faults of the configuration, and what else keeps the platform from starting.

use std::net::TcpListener;
use std::process::Output;

use crate::platform::{Home, bandar};

fn fails_with(output: &Output, code: i32, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in:\n{error}");
    }
}

#[test]
fn all_faults_are_reported_before_anything_is_made() {
    let home = Home::new();
    let mut command = bandar(&["up", "--data", home.data().to_str().unwrap()]);
    command
        .env("BANDAR__KPC__NO_SUCH_KEY", "1")
        .env("BANDAR__HTTP__LISTEN", "nowhere")
        .env("BANDAR__KCP__X", "1");
    let output = command.output().unwrap();
    fails_with(
        &output,
        64,
        &["kpc.no_such_key", "http.listen", "BANDAR__HTTP__LISTEN", "kcp", "no such section"],
    );
    assert!(!home.data().exists());
}

#[test]
fn a_configuration_file_that_is_missing_or_faulty_is_named() {
    let home = Home::new();
    let file = home.data().with_extension("toml");
    let arguments = ["up", "--data", home.data().to_str().unwrap(), "--config", file.to_str().unwrap()]
        .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let name = file.file_name().unwrap().to_str().unwrap();
    fails_with(&bandar(&arguments).output().unwrap(), 64, &[name]);
    std::fs::write(&file, "[kpc\n").unwrap();
    fails_with(&bandar(&arguments).output().unwrap(), 64, &[name]);
}

#[test]
fn services_need_to_know_their_servers() {
    let output = bandar(&["run", "kpc", "tekton"]).output().unwrap();
    fails_with(&output, 64, &["nats.url", "NATS_URL", "postgres.url", "DATABASE_URL"]);
    fails_with(&bandar(&["check-config", "tekton"]).output().unwrap(), 64, &["NATS_URL", "DATABASE_URL"]);
    fails_with(&bandar(&["run", "kcp"]).output().unwrap(), 64, &["no such service: kcp", "tekton"]);
    fails_with(&bandar(&["run"]).output().unwrap(), 64, &["SERVICE"]);
}

#[test]
fn a_complete_configuration_has_no_faults() {
    let mut command = bandar(&["check-config"]);
    command
        .env("NATS_URL", "nats://127.0.0.1:4222")
        .env("DATABASE_URL", "postgres://bandar@127.0.0.1/bandar");
    for key in ["CM__TOKEN_KEY", "TM__KEY_ENCRYPTION_KEY", "CCM__KEY_ENCRYPTION_KEY"] {
        command.env(format!("BANDAR__{key}"), "ab".repeat(32));
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for (flag, other, key) in [
        ("--listen-http", "--listen-mqtt", "http.listen"),
        ("--listen-mqtt", "--listen-http", "kpc.mqtt.listen"),
    ] {
        let home = Home::new();
        let data = home.data();
        let arguments = ["up", "--data", data.to_str().unwrap(), flag, &taken, other, "127.0.0.1:0"];
        let mut command = bandar(&arguments);
        // Not at their usual ports, where somebody else may listen.
        for other in ["HTTP__TLS", "KPC__MQTT__TLS", "KPC__MQTT__WS", "KPC__MQTT__WSS"] {
            command.env(format!("BANDAR__{other}__LISTEN"), "127.0.0.1:0");
        }
        fails_with(&command.output().unwrap(), 1, &[&taken, key]);
    }
}

#[test]
fn a_missing_program_is_named_with_the_way_to_get_it() {
    let home = Home::new();
    let data = home.data();
    let up = [
        "up",
        "--data",
        data.to_str().unwrap(),
        "--listen-http",
        "127.0.0.1:0",
        "--listen-mqtt",
        "127.0.0.1:0",
    ];
    let output = bandar(&up).env("BANDAR_POSTGRES_BIN", "/nowhere").output().unwrap();
    fails_with(&output, 1, &["PostgreSQL was not found", "postgresql-15", "DATABASE_URL"]);
    let output = bandar(&up).env("BANDAR_NATS_SERVER", "/nowhere").output().unwrap();
    fails_with(&output, 1, &["BANDAR_NATS_SERVER names /nowhere"]);
}
