//! Certificates that the tenant's own authority issues.

use ism::authorities::{AUTHORITIES_REQUEST, AuthoritiesRequest, AuthoritiesResponse};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use testbed::{ACME, OTHER, Rest, Testbed};

use crate::handshake::is_let_in;
use crate::{AUTHORITIES, X509, instance, set_state, show, show_issued, start, text};

pub(crate) async fn issue(rest: &Rest, common_name: &str) -> Value {
    rest.post(X509, &json!({"commonName": common_name})).await.expect(201)
}

async fn page(bed: &Testbed, after: Option<String>) -> AuthoritiesResponse {
    let request = AuthoritiesRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        after,
    };
    bed.ask(AUTHORITIES_REQUEST.service(&instance()), &request).await
}

/// What gateways verify clients with: tenants and certificates.
pub(crate) async fn anchors(bed: &Testbed) -> Vec<(String, Vec<u8>)> {
    let page = page(bed, None).await;
    assert_eq!((page.status_code, page.next), (200, None));
    page.authorities.into_iter().map(|one| (one.tenant_id, one.certificate.to_vec())).collect()
}

#[tokio::test]
async fn a_device_with_an_issued_certificate_is_let_in() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    assert!(anchors(&bed).await.is_empty());
    let issued = issue(&rest, "boiler 7").await;
    let (chain, private_key) = (text(&issued["certificateChain"]), text(&issued["privateKey"]));
    assert_eq!((&issued["commonName"], &issued["state"]), (&json!("boiler 7"), &json!("Inactive")));
    assert_eq!(chain.matches("-----BEGIN CERTIFICATE-----").count(), 3);
    assert!(chain.starts_with(issued["certificate"].as_str().unwrap()));

    let anchors = anchors(&bed).await;
    assert_eq!(anchors.len(), 1);
    assert_eq!(anchors[0].0, "acme");
    let trusted = vec![anchors[0].1.clone()];
    assert!(is_let_in(&trusted, &chain, &private_key));
    let others = issue(&bed.rest(OTHER), "boiler 7").await;
    assert!(!is_let_in(&trusted, &text(&others["certificateChain"]), &text(&others["privateKey"])));

    let shown = show_issued(&bed, &issued).await;
    assert_eq!((shown.status_code, shown.tenant_id.as_deref()), (200, Some("acme")), "{shown:?}");
    assert_eq!(
        (shown.credentials_id.as_ref(), &shown.client_id),
        (issued["id"].as_str().map(str::to_owned).as_ref(), &shown.credentials_id)
    );
    let kept = rest.get(&format!("{X509}/{}", text(&issued["id"]))).await.expect(200);
    assert_eq!((&kept["state"], &kept["certificate"]), (&json!("Active"), &issued["certificate"]));
    assert_eq!((kept.get("privateKey"), &kept["validUntil"]), (None, &issued["validUntil"]));
    bed.stop().await;
}

#[tokio::test]
async fn the_issuer_is_asked_for_in_the_gateways_words() {
    let bed = start(&[]).await;
    let issued = issue(&bed.rest(ACME), "device").await;
    let der = anchors(&bed).await.remove(0).1;
    let (_, authority) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(issued["issuer"], json!(authority.subject().to_string()));
    let pem = text(&issued["certificate"]);
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    assert_eq!(issued["issuer"], json!(leaf.issuer().to_string()));
    assert_eq!(issued["serialNumber"], json!(leaf.serial.to_string()));
    assert_eq!(show(&bed, &leaf.issuer().to_string(), &leaf.serial.to_string()).await.status_code, 200);
    bed.stop().await;
}

#[tokio::test]
async fn a_device_keeps_its_key_when_it_sends_a_request() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "from the request");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = rest.post(X509, &json!({"certificateSigningRequest": request})).await.expect(201);
    assert_eq!((issued.get("privateKey"), &issued["commonName"]), (None, &json!("from the request")));
    let trusted = vec![anchors(&bed).await.remove(0).1];
    assert!(is_let_in(&trusted, &text(&issued["certificateChain"]), &key.serialize_pem()));
    let named = rest
        .post(X509, &json!({"certificateSigningRequest": request, "commonName": "other"}))
        .await
        .expect(201);
    assert_eq!(named["commonName"], "other");
    rest.post(X509, &json!({"certificateSigningRequest": "nonsense"})).await.refused(400);
    bed.stop().await;
}

#[tokio::test]
async fn a_certificate_is_suspended_revoked_and_deleted() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let issued = issue(&rest, "device").await;
    let id = text(&issued["id"]);
    assert_eq!(show_issued(&bed, &issued).await.status_code, 200);
    set_state(&rest, X509, &id, "Suspended").await;
    let refused = show_issued(&bed, &issued).await;
    assert_eq!(
        (refused.status_code, refused.reason_phrase.as_deref(), refused.credentials_id.as_deref()),
        (403, Some("the credentials are suspended"), Some(id.as_str()))
    );
    set_state(&rest, X509, &id, "Active").await;
    assert_eq!(show_issued(&bed, &issued).await.status_code, 200);
    set_state(&rest, X509, &id, "Revoked").await;
    assert_eq!(show_issued(&bed, &issued).await.status_code, 403);
    rest.put(&format!("{X509}/{id}/state"), &json!({"state": "Active"})).await.refused(409);
    let listed = rest.get(&format!("{X509}?state=Revoked")).await.expect(200);
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["id"]), (Some(1), &json!(id)));
    assert_eq!(rest.delete(&format!("{X509}/{id}")).await.status, 204);
    assert_eq!(show_issued(&bed, &issued).await.status_code, 401);
    bed.stop().await;
}

#[tokio::test]
async fn what_nobody_issued_is_unknown() {
    let bed = start(&[]).await;
    let issued = issue(&bed.rest(ACME), "device").await;
    let issuer = text(&issued["issuer"]);
    for (issuer, serial) in [
        (issuer.as_str(), "1"),
        (&issuer, "01"),
        (&issuer, "x"),
        ("CN=nobody", "1"),
        ("CN=a\0", "1"),
        ("", ""),
    ] {
        let shown = show(&bed, issuer, serial).await;
        assert_eq!(
            (shown.status_code, shown.tenant_id, shown.credentials_id),
            (401, None, None),
            "{issuer:?}"
        );
    }
    bed.stop().await;
}

#[tokio::test]
async fn many_first_certificates_at_once_need_one_authority() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let names: Vec<String> = (0..12).map(|number| format!("device {number}")).collect();
    let issued = futures::future::join_all(names.iter().map(|name| issue(&rest, name))).await;
    let authorities = rest.get(AUTHORITIES).await.expect(200);
    assert_eq!(authorities.as_array().map(Vec::len), Some(1), "{authorities}");
    assert_eq!((&authorities[0]["kind"], &authorities[0]["state"]), (&json!("Own"), &json!("Active")));
    assert!(issued.iter().all(|one| one["issuer"] == authorities[0]["subject"]));
    let mut serials: Vec<String> = issued.iter().map(|one| text(&one["serialNumber"])).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 12);
    bed.stop().await;
}

#[tokio::test]
async fn expired_certificates_are_refused() {
    let bed = start(&[]).await;
    let issued = issue(&bed.rest(ACME), "device").await;
    let expire = async |table: &str| {
        let sql = format!("UPDATE ccm.{table} SET not_after = now() - interval '1 second' RETURNING 1");
        crate::scalar::<i32>(&bed, &sql).await
    };
    expire("x509_credentials").await;
    assert_eq!(
        show_issued(&bed, &issued).await.reason_phrase.as_deref(),
        Some("the certificate has expired")
    );
    expire("authorities").await;
    let refused = show_issued(&bed, &issued).await;
    assert_eq!(
        (refused.status_code, refused.reason_phrase.as_deref()),
        (403, Some("the authority of the certificate has expired"))
    );
    assert!(anchors(&bed).await.is_empty());
    // The next certificate comes from a new authority.
    let next = issue(&bed.rest(ACME), "device").await;
    assert_ne!(next["issuer"], issued["issuer"]);
    assert_eq!(anchors(&bed).await.len(), 1);
    bed.stop().await;
}

#[tokio::test]
async fn bad_wishes_are_refused_with_the_reason() {
    let settings = [
        ("ccm.x509_credentials_max", "1"),
        ("ccm.certificate_ttl_s", "120"),
        ("ccm.certificate_ttl_max_s", "3600"),
    ];
    let bed = start(&settings).await;
    let rest = bed.rest(ACME);
    for body in [
        json!({"ttlSeconds": 59}),
        json!({"ttlSeconds": 3601}),
        json!({"ttlSeconds": "60"}),
        json!({"commonName": ""}),
        json!({"commonName": "x".repeat(65)}),
        json!({"ttl": 60}),
    ] {
        rest.post(X509, &body).await.refused(400);
    }
    let issued = rest.post(X509, &json!({"ttlSeconds": 60})).await.expect(201);
    assert_eq!(issued["commonName"], issued["id"]);
    let message = rest.post(X509, &json!({})).await.refused(429);
    assert!(message.contains("ccm.x509_credentials_max"), "{message}");
    rest.get(&format!("{X509}/no-uuid")).await.refused(404);
    let answer = page(&bed, Some("no-uuid".to_owned())).await;
    assert_eq!((answer.status_code, answer.authorities.len()), (400, 0));
    bed.stop().await;
}
