//! Applications and versions over REST.

use std::collections::BTreeSet;

use serde_json::json;
use testbed::{ACME, OTHER};

use crate::{create_application, create_version, start, text};

const APPLICATIONS: &str = "/tekton/api/v1/applications";

#[tokio::test]
async fn an_application_is_made_read_and_changed() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let made = rest
        .post(APPLICATIONS, &json!({"name": "mine", "displayName": "Meters", "description": "a\nb"}))
        .await;
    let path = made.location.clone().unwrap();
    let application = made.expect(201);
    let name = text(&application["name"]);
    assert_eq!((name.len(), path), (20, format!("{APPLICATIONS}/{name}")));
    assert_eq!(application["displayName"], "Meters");
    assert_eq!(application["versions"], json!([]));
    assert!(text(&application["createdDate"]).ends_with('Z'));
    let path = format!("{APPLICATIONS}/{name}");
    assert_eq!(rest.get(&path).await.expect(200), application);

    let changed = rest.patch(&path, &json!({"displayName": null})).await.expect(200);
    assert_eq!((changed.get("displayName"), &changed["description"]), (None, &json!("a\nb")));
    assert!(text(&changed["updatedDate"]) > text(&application["updatedDate"]));
    let changed = rest.patch(&path, &json!({"description": "c"})).await.expect(200);
    assert_eq!(rest.get(&path).await.expect(200), changed);
    bed.stop().await;
}

#[tokio::test]
async fn versions_are_numbered_unless_named() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let application = create_application(&rest).await;
    assert_eq!(create_version(&rest, &application).await, format!("{application}-v1"));
    let path = format!("{APPLICATIONS}/{application}/app-versions");
    let named = json!({"nameSuffix": "v7", "displayName": "Seven", "description": "d"});
    let made = rest.post(&path, &named).await;
    assert_eq!(made.location, Some(format!("{path}/{application}-v7")));
    let seventh = made.expect(201);
    assert_eq!(create_version(&rest, &application).await, format!("{application}-v8"));
    assert!(rest.post(&path, &named).await.refused(409).contains("nameSuffix"));

    let one = format!("{path}/{application}-v7");
    assert_eq!(rest.get(&one).await.expect(200), seventh);
    let changed = rest.patch(&one, &json!({"description": null})).await.expect(200);
    assert_eq!((&changed["displayName"], changed.get("description")), (&json!("Seven"), None));
    let names: Vec<_> =
        rest.get(&path).await.expect(200).as_array().unwrap().iter().map(|v| text(&v["name"])).collect();
    assert_eq!(names, ["v1", "v7", "v8"].map(|suffix| format!("{application}-{suffix}")));
    let whole = rest.get(&format!("{APPLICATIONS}/{application}")).await.expect(200);
    assert_eq!(whole["versions"].as_array().unwrap().len(), 3);
    bed.stop().await;
}

#[tokio::test]
async fn versions_made_at_once_get_different_names() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let application = create_application(&rest).await;
    let made: Vec<_> = (0..6).map(|_| create_version(&rest, &application)).collect();
    let names: BTreeSet<_> = futures::future::join_all(made).await.into_iter().collect();
    assert_eq!(names, (1..=6).map(|number| format!("{application}-v{number}")).collect());
    bed.stop().await;
}

#[tokio::test]
async fn a_tenant_sees_only_its_own() {
    let bed = start(&[]).await;
    let (acme, other) = (bed.rest(ACME), bed.rest(OTHER));
    let mine = create_application(&acme).await;
    let version = create_version(&acme, &mine).await;
    let theirs = create_application(&other).await;
    for (rest, own) in [(&acme, &mine), (&other, &theirs)] {
        let listed = rest.get(APPLICATIONS).await.expect(200);
        let names: Vec<_> =
            listed.as_array().unwrap().iter().map(|application| text(&application["name"])).collect();
        assert_eq!(names, [own.as_str()]);
    }
    let path = format!("{APPLICATIONS}/{mine}");
    let versions = format!("{path}/app-versions");
    let one = format!("{versions}/{version}");
    let config = format!("/tekton/api/v1/app-configs/applications/{mine}");
    for path in [&path, &versions, &one, &config, &format!("{config}/app-versions/{version}")] {
        assert!(other.get(path).await.refused(404).contains(&mine), "{path}");
    }
    for path in [&path, &one, &format!("{config}?serviceInstanceName=dcx")] {
        assert!(other.patch(path, &json!({})).await.refused(404).contains(&mine), "{path}");
    }
    assert!(other.post(&versions, &json!({})).await.refused(404).contains(&mine));
    assert!(other.put(&config, &json!({})).await.refused(404).contains(&mine));
    // A version of another application is not found under this one.
    let crossed = format!("{APPLICATIONS}/{theirs}/app-versions/{version}");
    assert!(other.get(&crossed).await.refused(404).contains(&version));
    bed.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let application = create_application(&rest).await;
    let versions = format!("{APPLICATIONS}/{application}/app-versions");
    for (path, body, word) in [
        (APPLICATIONS, json!({"displayName": "x".repeat(257)}), "displayName"),
        (APPLICATIONS, json!({"displayName": "a\u{0}"}), "displayName"),
        (APPLICATIONS, json!({"description": "x".repeat(4_097)}), "description"),
        (APPLICATIONS, json!({"displayName": 5}), "displayName"),
        (APPLICATIONS, json!("text"), "invalid type"),
        (&versions, json!({"nameSuffix": "V-1"}), "nameSuffix"),
        (&versions, json!({"nameSuffix": ""}), "nameSuffix"),
    ] {
        let message = rest.post(path, &body).await.refused(400);
        assert!(message.contains(word), "{body}: {message}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "offset=-1"] {
        rest.get(&format!("{APPLICATIONS}?{query}")).await.refused(400);
    }
    assert!(rest.get(&format!("{APPLICATIONS}/A")).await.refused(400).contains("application name"));
    bed.stop().await;
}

#[tokio::test]
async fn limits_hold_and_lists_come_in_parts() {
    let bed = start(&[("tekton.applications_max", "3"), ("tekton.app_versions_max", "1")]).await;
    let rest = bed.rest(ACME);
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(create_application(&rest).await);
    }
    assert!(rest.post(APPLICATIONS, &json!({})).await.refused(429).contains("tekton.applications_max"));
    create_application(&bed.rest(OTHER)).await;
    create_version(&rest, &names[0]).await;
    let versions = format!("{APPLICATIONS}/{}/app-versions", names[0]);
    assert!(rest.post(&versions, &json!({})).await.refused(429).contains("tekton.app_versions_max"));
    let part = rest.get(&format!("{APPLICATIONS}?offset=1&limit=1")).await.expect(200);
    assert_eq!(part.as_array().unwrap().len(), 1);
    assert_eq!(part[0]["name"], json!(names[1]));
    bed.stop().await;
}
