//! The demo, and the command lines that it prints.

use std::path::Path;
use std::process::Command;

use crate::platform::{Home, bandar};

/// The printed command line that starts with a program, run by a shell in a directory that has nothing to do with it.
fn paste(text: &str, begin: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| line.starts_with(begin));
    let line = line.unwrap_or_else(|| panic!("no `{begin}` in:\n{text}"));
    let output = Command::new("sh").args(["-c", line]).current_dir(Path::new("/")).output().unwrap();
    let shown = [output.stdout, output.stderr].concat();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(output.status.success(), "{line}:\n{shown}");
    shown
}

fn demo(home: &Home) -> String {
    let output = bandar(&["demo", "--data", home.data().to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_printed_commands_work_when_pasted() {
    let home = Home::new();
    let up = home.up(&["--demo"]).await;
    let shown = testkit::eventually("the demo is printed", crate::platform::PATIENCE, async || {
        Some(up.output()).filter(|output| output.contains("time-series/last"))
    })
    .await;
    assert!(paste(&shown, "mosquitto_pub ").contains("received PUBACK"));
    assert!(paste(&shown, "curl -i ").starts_with("HTTP/1.1 200"));
    let data = paste(&shown, "curl -sS ");
    assert!(data.contains("auto~temperature") && data.contains("21.6"), "{data}");

    let again = demo(&home);
    assert!(shown.contains(&again), "a second demo is the first one:\n{again}");
}

#[tokio::test]
async fn a_demo_that_is_forgotten_uses_the_same_application() {
    let home = Home::new();
    let up = home.up(&[]).await;
    let first = demo(&home);
    let remembered = home.data().join("demo.json");
    std::fs::remove_file(&remembered).unwrap();
    let second = demo(&home);
    assert_ne!(first, second, "the token is lost, so there is a new endpoint");
    let applications = up.get("/tekton/api/v1/applications").await;
    let applications = applications.get("content").unwrap_or(&applications);
    assert_eq!(applications.as_array().unwrap().len(), 1);
}

#[test]
fn a_demo_without_a_platform_says_so() {
    let home = Home::new();
    let output = bandar(&["demo", "--data", home.data().to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("credentials.json"));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let arguments =
        ["demo", "--data", home.data().to_str().unwrap(), "--url", &url, "--api-key", "k"].map(str::to_owned);
    let output = bandar(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&url) && error.contains("is the platform running there?"), "{error}");
}
