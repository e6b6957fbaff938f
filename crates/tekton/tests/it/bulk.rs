//! Many applications at once.

use ism::scmp::BroadcastConfigurationUpdateEvent;
use serde_json::json;
use testbed::{ACME, Events, OTHER};

use crate::{BROADCASTS, block, config_path, create_application, create_version, document, start, told};

const CONFIGS: &str = "/tekton/api/v1/app-configs";
const BULK: &str = "/tekton/api/v1/bulk";

#[tokio::test]
async fn configuration_is_loaded_and_exported_in_the_same_form() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let mut events = Events::listen(&bed.client, BROADCASTS).await;
    let (one, two) = (create_application(&rest).await, create_application(&rest).await);
    let version = create_version(&rest, &two).await;
    rest.put(&config_path(&one), &document("kpc", &one, json!({"k": 1}))).await.expect(200);
    // Events follow their answers: those of the four calls before must not be taken for what comes now.
    for _ in 0..4 {
        events.next::<BroadcastConfigurationUpdateEvent>().await;
    }
    let loaded = json!({
        "dcx": {"kaa": {"applications": {&one: {"a": 1}, &two: {"b": 2, "versions": {&version: {"c": 3}}}}}},
        "epts": {"kaa": {"applications": {&two: {"d": 4}}}},
    });
    assert_eq!(rest.post(CONFIGS, &loaded).await.expect(200), loaded);
    let mut heard = Vec::new();
    for _ in 0..3 {
        let (_, event) = events.next::<BroadcastConfigurationUpdateEvent>().await;
        heard.push((event.app_name.unwrap(), event.app_ver_name));
    }
    heard.sort();
    let mut expected = vec![(one.clone(), None), (two.clone(), None), (two.clone(), Some(version.clone()))];
    expected.sort();
    assert_eq!(heard, expected);
    assert_eq!(block(&told(&bed, "epts", &two).await), Some(json!({"d": 4})));

    // What the body did not name has stayed.
    let exported = rest.get(CONFIGS).await.expect(200);
    let mut all = loaded.clone();
    all["kpc"] = document("kpc", &one, json!({"k": 1}))["kpc"].clone();
    assert_eq!(exported, all);
    assert_eq!(rest.get(&format!("{CONFIGS}?serviceInstanceName=dcx,epts")).await.expect(200), loaded);
    let of_one = rest.get(&format!("{CONFIGS}?appName={one}&serviceInstanceName=dcx")).await.expect(200);
    assert_eq!(of_one, document("dcx", &one, json!({"a": 1})));
    assert_eq!(bed.rest(OTHER).get(CONFIGS).await.expect(200), json!({}));

    // Loaded again it changes nothing; null takes away.
    assert_eq!(rest.post(CONFIGS, &exported).await.expect(200), exported);
    let removal = json!({"dcx": {"kaa": {"applications": {&one: null}}}});
    assert_eq!(rest.post(CONFIGS, &removal).await.expect(200), json!({}));
    assert_eq!(block(&told(&bed, "dcx", &one).await), None);
    bed.stop().await;
}

#[tokio::test]
async fn a_load_that_is_wrong_anywhere_changes_nothing() {
    let bed = start(&[("tekton.block_bytes_max", "100")]).await;
    let rest = bed.rest(ACME);
    let one = create_application(&rest).await;
    let foreign = create_application(&bed.rest(OTHER)).await;
    let with = |other: &str, block| json!({"dcx": {"kaa": {"applications": {&one: {"a": 1}, other: block}}}});
    for (body, status, word) in [
        (with(&foreign, json!({})), 404, foreign.as_str()),
        (with("none", json!({})), 404, "none"),
        (with("B", json!({})), 400, "\"B\""),
        (with(&one, json!(5)), 400, "JSON object"),
        (with(&one, json!({"versions": {"no-v1": {}}})), 400, "no-v1"),
        (with(&one, json!({"a": "x".repeat(100)})), 413, "tekton.block_bytes_max"),
        (json!({"dxc": {"kaa": {"applications": {&one: {}}}}}), 400, "dxc"),
        (json!({"dcx": null}), 400, "kaa.applications"),
        (json!([]), 400, "JSON object"),
    ] {
        let message = rest.post(CONFIGS, &body).await.refused(status);
        assert!(message.contains(word), "{body}: {message}");
    }
    assert_eq!(rest.get(CONFIGS).await.expect(200), json!({}));
    bed.stop().await;
}

#[tokio::test]
async fn tenants_are_exported_with_their_applications() {
    let bed = start(&[("http.auth.platform_tenant", OTHER.id)]).await;
    let (acme, platform) = (bed.rest(ACME), bed.rest(OTHER));
    assert_eq!(
        acme.get(BULK).await.expect(200),
        json!({"tenants": [{"tenantId": "acme", "applications": []}]})
    );
    let (one, two) = (create_application(&acme).await, create_application(&acme).await);
    create_version(&acme, &one).await;
    let config = document("dcx", &one, json!({"a": 1}));
    acme.put(&config_path(&one), &config).await.expect(200);
    let own = json!({"kpc": {"kaa": {"tenants": {"acme": {"config": {"b": 2}}}}}});
    acme.put("/tekton/api/v1/tenant-configs", &own).await.expect(200);
    let applications = acme.get("/tekton/api/v1/applications").await.expect(200);
    let plain = json!({"tenants": [{"tenantId": "acme", "applications": &applications}]});
    assert_eq!(acme.get(BULK).await.expect(200), plain);

    let mut full = plain.clone();
    full["tenants"][0]["tenantConfigs"] = own;
    full["tenants"][0]["applications"][0]["appConfigs"] = config;
    full["tenants"][0]["applications"][1]["appConfigs"] = json!({});
    assert_eq!(acme.get(&format!("{BULK}?include=appConfigs,tenantConfigs")).await.expect(200), full);
    let selected = acme.get(&format!("{BULK}?appName={two}")).await.expect(200);
    assert_eq!(selected["tenants"][0]["applications"], json!([applications[1]]));
    let none = acme.get(&format!("{BULK}?include=tenantConfigs&serviceInstanceName=dcx")).await.expect(200);
    assert_eq!(none, plain);

    assert_eq!(platform.get(BULK).await.expect(200), plain);
    create_application(&platform).await;
    let all = platform.get(BULK).await.expect(200);
    let tenants: Vec<_> = all["tenants"].as_array().unwrap().iter().map(|t| t["tenantId"].clone()).collect();
    assert_eq!(tenants, [json!("acme"), json!("other")]);
    assert_eq!(platform.get(&format!("{BULK}?tenantId=acme")).await.expect(200), plain);
    acme.get(&format!("{BULK}?tenantId=other")).await.refused(403);
    acme.get(&format!("{BULK}?include=all")).await.refused(400);
    bed.stop().await;
}

#[tokio::test]
async fn exports_are_bounded() {
    let settings = [
        ("tekton.block_bytes_max", "100"),
        ("tekton.application_config_bytes_max", "100"),
        ("tekton.tenant_config_bytes_max", "100"),
        ("tekton.export_bytes_max", "100"),
        ("tekton.export_applications_max", "2"),
    ];
    let bed = start(&settings).await;
    let rest = bed.rest(ACME);
    let mut names = Vec::new();
    for _ in 0..2 {
        let name = create_application(&rest).await;
        rest.put(&config_path(&name), &document("dcx", &name, json!({"a": "x".repeat(50)})))
            .await
            .expect(200);
        names.push(name);
    }
    assert!(rest.get(CONFIGS).await.refused(400).contains("tekton.export_bytes_max"));
    rest.get(&format!("{CONFIGS}?appName={}", names[0])).await.expect(200);
    rest.get(BULK).await.expect(200);
    create_application(&rest).await;
    assert!(rest.get(BULK).await.refused(400).contains("tekton.export_applications_max"));
    bed.stop().await;
}
