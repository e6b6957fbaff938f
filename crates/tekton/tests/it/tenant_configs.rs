//! Service configuration of tenants.

use ism::config::ConfigurationRequest;
use ism::scmp::{BroadcastConfigurationUpdateEvent, ServiceSpecificConfigurationUpdateEvent};
use serde_json::{Value, json};
use testbed::{ACME, Events, OTHER, Testbed};

use crate::{BROADCASTS, TARGETED, block, put_question, question, start};

const PATH: &str = "/tekton/api/v1/tenant-configs";

fn whole(instance: &str, tenant: &str, block: Value) -> Value {
    json!({instance: {"kaa": {"tenants": {tenant: {"config": block}}}}})
}

async fn told(bed: &Testbed, instance: &str, tenant: &str) -> Option<Value> {
    let request = ConfigurationRequest { tenant_id: Some(tenant.to_owned()), ..question(instance) };
    let response = put_question(bed, &request).await;
    assert_eq!((response.status_code, response.tenant_id.as_deref()), (200, Some(tenant)));
    assert_eq!((response.app_name.as_ref(), response.app_version_names.len()), (None, 0));
    block(&response)
}

#[tokio::test]
async fn a_tenant_is_configured_and_services_are_told() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let mut broadcasts = Events::listen(&bed.client, BROADCASTS).await;
    let mut targeted = Events::listen(&bed.client, TARGETED).await;
    assert_eq!(rest.get(PATH).await.expect(200), json!({}));
    assert_eq!(told(&bed, "kpc", "acme").await, None);
    let auth = json!({"transports": {"mqtt": {"tcp": {"basic-auth": {"required": true}}}}});
    let body = whole("kpc", "acme", auth.clone());
    assert_eq!(rest.put(PATH, &body).await.expect(200), body);
    assert_eq!(told(&bed, "kpc", "acme").await, Some(auth));
    assert_eq!((told(&bed, "dcx", "acme").await, told(&bed, "kpc", "other").await), (None, None));
    let (subject, event) = broadcasts.next::<BroadcastConfigurationUpdateEvent>().await;
    assert_eq!(subject, "kaa.v1.events.tekton.service.configuration.upsert");
    assert_eq!((event.tenant_id.as_deref(), event.app_name, event.app_ver_name), (Some("acme"), None, None));
    let (subject, event) = targeted.next::<ServiceSpecificConfigurationUpdateEvent>().await;
    assert_eq!(subject, "kaa.v1.service.kpc.scmp.configuration.upsert");
    assert_eq!((event.tenant_id.as_str(), event.app_name, event.app_ver_name), ("acme", None, None));

    let patch = json!({"kaa.tenants.acme.config": {"limit": 5}});
    let patched = rest.patch(&format!("{PATH}?serviceInstanceName=kpc"), &patch).await.expect(200);
    assert_eq!(patched["kpc"]["kaa"]["tenants"]["acme"]["config"]["limit"], 5);
    rest.patch(&format!("{PATH}?serviceInstanceName=dcx"), &whole("dcx", "acme", json!({})))
        .await
        .expect(200);
    let selected = rest.get(&format!("{PATH}?serviceInstanceName=dcx")).await.expect(200);
    assert_eq!(selected, whole("dcx", "acme", json!({})));
    rest.put(PATH, &json!({})).await.expect(200);
    assert_eq!(rest.get(PATH).await.expect(200), json!({}));
    assert_eq!(told(&bed, "kpc", "acme").await, None);
    bed.stop().await;
}

#[tokio::test]
async fn only_administrators_of_the_platform_reach_other_tenants() {
    let bed = start(&[("http.auth.platform_tenant", OTHER.id)]).await;
    let (acme, platform) = (bed.rest(ACME), bed.rest(OTHER));
    let body = whole("kpc", "acme", json!({"a": 1}));
    acme.put(PATH, &body).await.expect(200);
    for query in ["?tenantId=other", "?tenantId=third"] {
        assert!(acme.get(&format!("{PATH}{query}")).await.refused(403).contains("tenantId"));
        acme.put(&format!("{PATH}{query}"), &json!({})).await.refused(403);
    }
    assert_eq!(acme.get(&format!("{PATH}?tenantId=acme")).await.expect(200), body);
    assert!(
        acme.put(PATH, &whole("kpc", "other", json!({}))).await.refused(400).contains("kaa.tenants.acme")
    );
    assert!(acme.get(&format!("{PATH}?tenantId=A")).await.refused(400).contains("tenantId"));

    assert_eq!(platform.get(PATH).await.expect(200), json!({}));
    assert_eq!(platform.get(&format!("{PATH}?tenantId=acme")).await.expect(200), body);
    let third = whole("kpc", "third", json!({"b": 2}));
    platform.put(&format!("{PATH}?tenantId=third"), &third).await.expect(200);
    assert_eq!(told(&bed, "kpc", "third").await, Some(json!({"b": 2})));
    let applications = "/tekton/api/v1/applications";
    let made = platform.post(&format!("{applications}?tenantId=acme"), &json!({})).await.expect(201);
    let listed = acme.get(applications).await.expect(200);
    assert_eq!(listed, json!([made]));
    assert_eq!(platform.get(applications).await.expect(200), json!([]));
    assert_eq!(platform.get(&format!("{applications}?tenantId=acme")).await.expect(200), listed);
    acme.get(&format!("{applications}?tenantId=other")).await.refused(403);
    acme.post(&format!("{applications}?tenantId=other"), &json!({})).await.refused(403);
    bed.stop().await;
}

#[tokio::test]
async fn a_tenants_configuration_is_bounded() {
    let settings = [
        ("tekton.block_bytes_max", "100"),
        ("tekton.tenant_config_bytes_max", "150"),
        ("tekton.application_config_bytes_max", "150"),
    ];
    let bed = start(&settings).await;
    let rest = bed.rest(ACME);
    let big = |bytes| json!({"a": "x".repeat(bytes)});
    let message = rest.put(PATH, &whole("kpc", "acme", big(100))).await.refused(413);
    assert!(message.contains("tekton.block_bytes_max"), "{message}");
    rest.put(PATH, &whole("kpc", "acme", big(80))).await.expect(200);
    let more = rest.patch(&format!("{PATH}?serviceInstanceName=dcx"), &whole("dcx", "acme", big(80))).await;
    assert!(more.refused(413).contains("tekton.tenant_config_bytes_max"));
    bed.stop().await;
}
