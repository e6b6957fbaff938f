//! Own authorities that come and go, and foreign ones.

use ism::cap::ClientCredentialsRevokedEvent;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber};
use serde_json::{Value, json};
use testbed::{ACME, OTHER, Rest};

use crate::certificates::{anchors, issue};
use crate::handshake::is_let_in;
use crate::{AUTHORITIES, X509, scalar, set_state, show, show_issued, start, text};

/// An authority that a tenant has already.
struct Foreign {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    subject: String,
}

fn foreign(common_name: &str) -> Foreign {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, "Factory");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Foreign { params, key, pem, subject: format!("CN={common_name}, O=Factory") }
}

impl Foreign {
    /// A certificate in PEM and its key in PEM.
    fn issues(&self, common_name: &str, serial: u8) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }

    async fn registration(&self, rest: &Rest) -> Value {
        let code = rest.get(&format!("{AUTHORITIES}/registration-code")).await.expect(200);
        let (proof, _) = self.issues(&text(&code["registrationCode"]), 1);
        json!({"certificate": self.pem, "verificationCertificate": proof})
    }

    async fn register(&self, rest: &Rest) -> String {
        let body = self.registration(rest).await;
        let registered = rest.post(AUTHORITIES, &body).await.expect(201);
        assert_eq!((&registered["kind"], &registered["subject"]), (&json!("Foreign"), &json!(self.subject)));
        text(&registered["id"])
    }
}

async fn code(bed: &testbed::Testbed, issuer: &str, serial: &str) -> i32 {
    show(bed, issuer, serial).await.status_code
}

#[tokio::test]
async fn clients_of_a_foreign_authority_become_known_when_they_come() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let factory = foreign("Factory CA");
    assert_eq!(code(&bed, &factory.subject, "7").await, 401);
    factory.register(&rest).await;
    let anchor = anchors(&bed).await.remove(0);
    assert_eq!(anchor.0, "acme");
    let (certificate, key) = factory.issues("device", 7);
    assert!(is_let_in(&[anchor.1], &certificate, &key));

    let shows = (0..20).map(|_| show(&bed, &factory.subject, "7"));
    let shown = futures::future::join_all(shows).await;
    assert!(
        shown.iter().all(|one| one.status_code == 200 && one.tenant_id.as_deref() == Some("acme")),
        "{shown:?}"
    );
    assert!(shown.iter().all(|one| one.credentials_id == shown[0].credentials_id));
    let listed = rest.get(X509).await.expect(200);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed[0]["serialNumber"], &listed[0]["state"]), (&json!("7"), &json!("Active")));
    assert_eq!(scalar::<i64>(&bed, "SELECT x509_credentials FROM ccm.tenants").await, 1);

    let id = text(&listed[0]["id"]);
    set_state(&rest, X509, &id, "Revoked").await;
    assert_eq!(code(&bed, &factory.subject, "7").await, 403);
    // Deleted it would come back, so that must be meant.
    assert!(rest.delete(&format!("{X509}/{id}")).await.refused(409).contains("forget=true"));
    assert_eq!(code(&bed, &factory.subject, "7").await, 403);
    assert_eq!(rest.delete(&format!("{X509}/{id}?forget=true")).await.status, 204);
    assert_eq!(code(&bed, &factory.subject, "7").await, 200);
    bed.stop().await;
}

#[tokio::test]
async fn only_who_has_the_key_registers_an_authority() {
    let bed = start(&[]).await;
    let (rest, other) = (bed.rest(ACME), bed.rest(OTHER));
    let (factory, thief) = (foreign("Factory CA"), foreign("Factory CA"));
    // The code of another tenant proves nothing.
    let stolen = factory.registration(&other).await;
    assert!(rest.post(AUTHORITIES, &stolen).await.refused(400).contains("registration code"));
    // Nor does a signature of an authority of the same name.
    let mut forged = thief.registration(&rest).await;
    forged["certificate"] = json!(factory.pem);
    assert!(rest.post(AUTHORITIES, &forged).await.refused(400).contains("not signed with the key"));
    let (leaf, _) = factory.issues("device", 2);
    let mut no_authority = factory.registration(&rest).await;
    no_authority["certificate"] = json!(leaf);
    assert!(rest.post(AUTHORITIES, &no_authority).await.refused(400).contains("CA:TRUE"));
    rest.post(AUTHORITIES, &json!({"certificate": factory.pem})).await.refused(400);

    factory.register(&rest).await;
    // Its name stands for it in every request of a gateway: nobody else may have it.
    let again = factory.registration(&other).await;
    assert!(other.post(AUTHORITIES, &again).await.refused(409).contains("unique in the platform"));
    let same_name = thief.registration(&other).await;
    other.post(AUTHORITIES, &same_name).await.refused(409);
    assert_eq!(anchors(&bed).await.len(), 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_suspended_authority_refuses_its_clients_until_it_is_active_again() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let issued = issue(&rest, "device").await;
    let own = text(&rest.get(AUTHORITIES).await.expect(200)[0]["id"]);
    let factory = foreign("Factory CA");
    let registered = factory.register(&rest).await;
    assert_eq!(code(&bed, &factory.subject, "7").await, 200);

    for id in [&own, &registered] {
        set_state(&rest, AUTHORITIES, id, "Suspended").await;
    }
    assert!(anchors(&bed).await.is_empty());
    for refused in [show_issued(&bed, &issued).await, show(&bed, &factory.subject, "7").await] {
        assert_eq!(
            (refused.status_code, refused.reason_phrase.as_deref()),
            (403, Some("the authority of the certificate is suspended"))
        );
    }
    // Nobody new becomes known meanwhile, and nothing is issued.
    assert_eq!(code(&bed, &factory.subject, "8").await, 403);
    assert!(rest.post(X509, &json!({})).await.refused(409).contains(&own));
    for id in [&own, &registered] {
        set_state(&rest, AUTHORITIES, id, "Active").await;
    }
    assert_eq!(anchors(&bed).await.len(), 2);
    assert_eq!(show_issued(&bed, &issued).await.status_code, 200);
    for serial in ["7", "8"] {
        assert_eq!(code(&bed, &factory.subject, serial).await, 200);
    }
    bed.stop().await;
}

#[tokio::test]
async fn a_revoked_authority_revokes_what_it_issued() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let issued = issue(&rest, "device").await;
    let own = text(&rest.get(AUTHORITIES).await.expect(200)[0]["id"]);
    set_state(&rest, AUTHORITIES, &own, "Revoked").await;
    assert_eq!(show_issued(&bed, &issued).await.status_code, 403);
    let state = &rest.get(&format!("{X509}/{}", text(&issued["id"]))).await.expect(200)["state"];
    assert_eq!(state, "Revoked");
    rest.put(&format!("{AUTHORITIES}/{own}/state"), &json!({"state": "Active"})).await.refused(409);
    // The next certificate comes from another authority.
    let next = issue(&rest, "device").await;
    assert_ne!(next["issuer"], issued["issuer"]);
    assert_eq!(show_issued(&bed, &next).await.status_code, 200);
    bed.stop().await;
}

#[tokio::test]
async fn what_a_deleted_authority_issued_stays_refused() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let issued = issue(&rest, "device").await;
    let own = text(&rest.get(AUTHORITIES).await.expect(200)[0]["id"]);
    assert_eq!(rest.delete(&format!("{AUTHORITIES}/{own}")).await.status, 204);
    assert_eq!(show_issued(&bed, &issued).await.status_code, 401);
    assert_eq!(rest.get(X509).await.expect(200), json!([]));

    let factory = foreign("Factory CA");
    let registered = factory.register(&rest).await;
    assert_eq!(code(&bed, &factory.subject, "7").await, 200);
    assert_eq!(rest.delete(&format!("{AUTHORITIES}/{registered}")).await.status, 204);
    assert_eq!(code(&bed, &factory.subject, "7").await, 401);
    let again = factory.register(&rest).await;
    assert_eq!(code(&bed, &factory.subject, "7").await, 403);
    assert_eq!(code(&bed, &factory.subject, "8").await, 200);
    // Only the tombstone of 7 is of no authority that there is.
    assert_eq!(rest.delete(&format!("{AUTHORITIES}/{again}?forget=true")).await.status, 204);
    let left = rest.get(X509).await.expect(200);
    assert_eq!((left.as_array().map(Vec::len), &left[0]["serialNumber"]), (Some(1), &json!("7")));
    assert_eq!(scalar::<i64>(&bed, "SELECT x509_credentials FROM ccm.tenants").await, 1);
    assert_eq!(scalar::<i64>(&bed, "SELECT authorities FROM ccm.tenants").await, 0);
    assert_eq!(rest.delete(&format!("{X509}/{}", text(&left[0]["id"]))).await.status, 204);
    bed.stop().await;
}

#[tokio::test]
async fn a_client_never_becomes_known_behind_a_suspended_authority() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let factory = foreign("Factory CA");
    let id = factory.register(&rest).await;
    for serial in 10..30 {
        let serial = serial.to_string();
        let mut events =
            testbed::Events::listen(&bed.client, "kaa.v1.events.ccm.client-credentials.certificate.revoked")
                .await;
        let (shown, _) = tokio::join!(
            show(&bed, &factory.subject, &serial),
            set_state(&rest, AUTHORITIES, &id, "Suspended")
        );
        // Who was let in is told of it.
        let mut told = shown.status_code != 200;
        while !told {
            let (_, event) = events.next::<ClientCredentialsRevokedEvent>().await;
            told = Some(event.credentials_id) == shown.credentials_id;
        }
        assert_eq!(code(&bed, &factory.subject, &serial).await, 403);
        set_state(&rest, AUTHORITIES, &id, "Active").await;
    }
    bed.stop().await;
}

#[tokio::test]
async fn authorities_and_their_clients_are_bounded() {
    let bed = start(&[("ccm.authorities_max", "2"), ("ccm.x509_credentials_max", "2")]).await;
    let rest = bed.rest(ACME);
    let factory = foreign("Factory CA");
    let id = factory.register(&rest).await;
    for (serial, expected) in [("1", 200), ("2", 200), ("3", 403), ("2", 200)] {
        let shown = show(&bed, &factory.subject, serial).await;
        assert_eq!(shown.status_code, expected, "{serial}");
        if expected == 403 {
            assert!(shown.reason_phrase.unwrap().contains("ccm.x509_credentials_max"));
        }
    }
    foreign("Second CA").register(&rest).await;
    let third = foreign("Third CA").registration(&rest).await;
    assert!(rest.post(AUTHORITIES, &third).await.refused(429).contains("ccm.authorities_max"));
    assert_eq!(rest.delete(&format!("{AUTHORITIES}/{id}?forget=true")).await.status, 204);
    rest.post(AUTHORITIES, &third).await.expect(201);
    bed.stop().await;
}
