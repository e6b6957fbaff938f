//! Service configuration of applications: over REST, as other services are told, and the events in between.

use axum::http::Method;
use ism::config::{ConfigurationRequest, ConfigurationResponse};
use ism::scmp::{BroadcastConfigurationUpdateEvent, ServiceSpecificConfigurationUpdateEvent};
use serde_json::{Value, json};
use testbed::{ACME, Events, Testbed};

use crate::{
    BROADCASTS, TARGETED, block, config_path, create_application, create_version, document, put_question,
    question, start,
};

/// Asks as a service would; `name` is that of a version or an application.
async fn ask(
    bed: &Testbed,
    instance: &str,
    version: Option<&str>,
    application: Option<&str>,
) -> ConfigurationResponse {
    let request = ConfigurationRequest {
        app_version_name: version.map(ToOwned::to_owned),
        app_name: application.map(ToOwned::to_owned),
        ..question(instance)
    };
    put_question(bed, &request).await
}

#[tokio::test]
async fn services_are_told_their_block_or_that_there_is_none() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let (v1, v2) = (create_version(&rest, &app).await, create_version(&rest, &app).await);
    let path = format!("/tekton/api/v1/app-configs/applications/{app}");
    let told = ask(&bed, "dcx", Some(&v1), None).await;
    assert_eq!((told.status_code, told.correlation_id.as_str(), block(&told)), (200, "c-1", None));
    assert_eq!((told.tenant_id.as_deref(), told.app_name.as_deref()), (Some("acme"), Some(app.as_str())));
    assert_eq!(told.app_version_names.len(), 2);

    let document = json!({
        "dcx": {"kaa": {"applications": {&app: {"a": 1, "versions": {&v2: {"b": 2}}}}}},
        "epts": {"kaa": {"applications": {&app: {"c": [1.5, "é\u{0}"]}}}},
    });
    assert_eq!(rest.put(&path, &document).await.expect(200), document);
    assert_eq!(rest.get(&path).await.expect(200), document);
    assert_eq!(block(&ask(&bed, "dcx", Some(&v1), None).await), Some(json!({"a": 1})));
    assert_eq!(block(&ask(&bed, "dcx", Some(&v2), None).await), Some(json!({"b": 2})));
    assert_eq!(block(&ask(&bed, "dcx", None, Some(&app)).await), Some(json!({"a": 1})));
    assert_eq!(block(&ask(&bed, "epts", Some(&v2), None).await), Some(json!({"c": [1.5, "é\u{0}"]})));
    assert_eq!(block(&ask(&bed, "kpc", Some(&v2), None).await), None);

    let unknown = ask(&bed, "dcx", Some("nothing-v1"), None).await;
    assert_eq!((unknown.status_code, unknown.tenant_id), (404, None));
    assert_eq!(ask(&bed, "dcx", None, Some("nothing")).await.status_code, 404);
    assert_eq!(ask(&bed, "dcx", None, None).await.status_code, 400);
    assert_eq!(ask(&bed, "dcx", Some(&v1), Some(&app)).await.status_code, 400);
    assert_eq!(ask(&bed, "d.cx", None, Some(&app)).await.status_code, 400);
    assert_eq!(ask(&bed, "dcx", Some("A"), None).await.status_code, 400);
    bed.stop().await;
}

#[tokio::test]
async fn put_replaces_patch_merges_get_selects() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let v1 = create_version(&rest, &app).await;
    let path = format!("/tekton/api/v1/app-configs/applications/{app}");
    let version_path = format!("{path}/app-versions/{v1}");
    let whole = |block: Value| json!({"kaa": {"applications": {&app: block}}});

    rest.put(&path, &json!({"dcx": whole(json!({"a": 1})), "kpc": whole(json!({"k": 1}))})).await.expect(200);
    let patch = json!({format!("kaa.applications.{app}"): {"b": {"c": 2}}});
    let patched =
        rest.patch(&format!("{path}?serviceInstanceName=dcx"), &json!({"dcx": patch})).await.expect(200);
    assert_eq!(patched["dcx"], whole(json!({"a": 1, "b": {"c": 2}})));
    let selected =
        rest.get(&format!("{path}?serviceInstanceName=dcx,epts&serviceInstanceName=bcx")).await.expect(200);
    assert_eq!(selected, json!({"dcx": patched["dcx"]}));

    let of_version = json!({"kpc": whole(json!({"versions": {&v1: {"v": 1}}}))});
    assert_eq!(rest.put(&version_path, &of_version).await.expect(200), of_version);
    assert_eq!(rest.get(&path).await.expect(200)["kpc"], whole(json!({"k": 1, "versions": {&v1: {"v": 1}}})));
    // The version's resource does not touch the application's, and the other way round everything goes.
    rest.put(&version_path, &json!({})).await.expect(200);
    assert_eq!(rest.get(&path).await.expect(200)["kpc"], whole(json!({"k": 1})));
    rest.put(&path, &json!({"dcx": whole(json!({"z": 0}))})).await.expect(200);
    assert_eq!(rest.get(&path).await.expect(200), json!({"dcx": whole(json!({"z": 0}))}));
    bed.stop().await;
}

#[tokio::test]
async fn every_change_is_announced_once_and_to_its_service() {
    let bed = start(&[]).await;
    let mut broadcasts = Events::listen(&bed.client, BROADCASTS).await;
    let mut targeted = Events::listen(&bed.client, TARGETED).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let v1 = create_version(&rest, &app).await;
    let path = format!("/tekton/api/v1/app-configs/applications/{app}");
    for version in [None, Some(&v1)] {
        let (subject, event) = broadcasts.next::<BroadcastConfigurationUpdateEvent>().await;
        assert_eq!(subject, "kaa.v1.events.tekton.service.configuration.upsert");
        assert_eq!(
            (event.tenant_id.as_deref(), event.app_name.as_deref()),
            (Some("acme"), Some(app.as_str()))
        );
        assert_eq!(event.app_ver_name.as_ref(), version);
        assert!(event.originator_replica_id.starts_with("tekton-"));
    }
    let document = json!({"dcx": {"kaa": {"applications": {&app: {"a": 1, "versions": {&v1: {}}}}}}});
    rest.put(&path, &document).await.expect(200);
    for version in [None, Some(&v1)] {
        let (subject, event) = targeted.next::<ServiceSpecificConfigurationUpdateEvent>().await;
        assert_eq!(subject, "kaa.v1.service.dcx.scmp.configuration.upsert");
        assert_eq!((event.tenant_id.as_str(), event.app_ver_name.as_ref()), ("acme", version));
        assert_eq!(
            broadcasts.next::<BroadcastConfigurationUpdateEvent>().await.1.app_ver_name.as_ref(),
            version
        );
    }
    // The same again changes nothing and says nothing: the next event is that of the removal.
    rest.put(&path, &document).await.expect(200);
    rest.patch(&format!("{path}/app-versions/{v1}?serviceInstanceName=dcx"), &json!({"dcx": null}))
        .await
        .expect(200);
    let (subject, event) = targeted.next::<ServiceSpecificConfigurationUpdateEvent>().await;
    assert_eq!(subject, "kaa.v1.service.dcx.scmp.configuration.delete");
    assert_eq!(event.app_ver_name.as_ref(), Some(&v1));
    assert_eq!(
        broadcasts.next::<BroadcastConfigurationUpdateEvent>().await.1.app_ver_name.as_ref(),
        Some(&v1)
    );
    bed.stop().await;
}

#[tokio::test]
async fn bad_configuration_is_refused_and_changes_nothing() {
    let bed =
        start(&[("tekton.block_bytes_max", "100"), ("tekton.application_config_bytes_max", "150")]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let path = format!("/tekton/api/v1/app-configs/applications/{app}");
    let with = |block: Value| json!({"kaa": {"applications": {&app: block}}});
    for (body, word) in [
        (json!([]), "JSON object"),
        (json!({"d.cx": {}}), "d.cx"),
        (json!({"dcx": {"kaa": {"applications": {"other": {}}}}}), "kaa.applications"),
        (json!({"dcx": with(json!(1))}), "JSON object"),
        (json!({"dcx": with(json!({"versions": {"none-v1": {}}}))}), "none-v1"),
        (json!({"dxc": with(json!({}))}), "known are bcx, dcx, epts, kpc"),
    ] {
        let message = rest.put(&path, &body).await.refused(400);
        assert!(message.contains(word), "{body}: {message}");
    }
    let big = |bytes| with(json!({"a": "x".repeat(bytes)}));
    let message = rest.put(&path, &json!({"dcx": big(100)})).await.refused(413);
    assert!(message.contains("tekton.block_bytes_max"), "{message}");
    let message = rest.put(&path, &json!({"dcx": big(80), "kpc": big(80)})).await.refused(413);
    assert!(message.contains("tekton.application_config_bytes_max"), "{message}");
    assert_eq!(rest.get(&path).await.expect(200), json!({}));

    assert!(rest.patch(&path, &json!({})).await.refused(400).contains("serviceInstanceName"));
    let unnamed = rest
        .patch(&format!("{path}?serviceInstanceName=dcx"), &json!({"dcx": {}, "kpc": with(json!({}))}))
        .await;
    assert!(unnamed.refused(400).contains("kpc"));
    let nowhere = rest.put(&format!("{path}/app-versions/{app}-v9"), &json!({})).await.refused(404);
    assert!(nowhere.contains("-v9"), "{nowhere}");
    bed.stop().await;
}

#[tokio::test]
async fn a_change_can_be_made_to_hold_to_what_was_read() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let path = config_path(&app);
    let first = rest.put(&path, &document("dcx", &app, json!({"a": 1}))).await;
    let tag = first.etag.clone().unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    assert_eq!(rest.get(&path).await.etag.as_ref(), Some(&tag));
    let known = rest.call_with(Method::GET, &path, &[("if-none-match", &tag)], None).await;
    assert_eq!((known.status, known.body, known.etag.as_ref()), (304, Value::Null, Some(&tag)));

    let second = document("dcx", &app, json!({"a": 2}));
    let put = async |tag: &str| rest.call_with(Method::PUT, &path, &[("if-match", tag)], Some(&second)).await;
    let changed = put(&tag).await;
    let newer = changed.etag.clone().unwrap();
    assert_eq!(changed.expect(200), second);
    assert_ne!(newer, tag);
    assert!(put(&tag).await.refused(412).contains(newer.trim_matches('"')));
    assert_eq!(put("*").await.status, 200);

    // A patch sees the service instances that it names, so others may change meanwhile.
    let of_dcx = format!("{path}?serviceInstanceName=dcx");
    let tag = rest.get(&of_dcx).await.etag.unwrap();
    rest.patch(&format!("{path}?serviceInstanceName=kpc"), &document("kpc", &app, json!({})))
        .await
        .expect(200);
    let patch = json!({"kaa": {"applications": {&app: {"b": 3}}}});
    let patched = rest.call_with(Method::PATCH, &of_dcx, &[("if-match", &tag)], Some(&patch)).await;
    assert_eq!(patched.expect(200), document("dcx", &app, json!({"a": 2, "b": 3})));
    let late = rest.call_with(Method::PATCH, &of_dcx, &[("if-match", &tag)], Some(&patch)).await;
    late.refused(412);
    bed.stop().await;
}
