//! Who may call what.

use crate::site::{Site, site};

const ROUTES: [&str; 5] = ["berths", "applications", "applications/one", "applications/two", "harbours"];

/// The statuses of all routes for a credential.
async fn statuses(site: &Site, credential: &str) -> [u16; ROUTES.len()] {
    let mut statuses = [0; ROUTES.len()];
    for (status, route) in statuses.iter_mut().zip(ROUTES) {
        let request = site.stranger_get(&format!("/berths/api/v1/{route}")).bearer_auth(credential);
        *status = request.send().await.unwrap().status().as_u16();
    }
    statuses
}

#[tokio::test]
async fn each_route_asks_for_its_permission() {
    let site = site().await;
    assert_eq!(statuses(&site, "nonsense").await, [401; 5]);
    assert_eq!(statuses(&site, "harbour/viewer/").await, [200, 200, 200, 200, 403]);
    assert_eq!(statuses(&site, "harbour//one=viewer").await, [403, 200, 200, 403, 403]);
    assert_eq!(statuses(&site, "harbour//").await, [403; 5]);
    assert_eq!(statuses(&site, "harbour/admin/").await, [200, 200, 200, 200, 403]);
    assert_eq!(statuses(&site, "bandar/admin/").await, [200; 5]);
    assert_eq!(statuses(&site, "bandar/viewer/").await, [200, 200, 200, 200, 403]);
}

#[tokio::test]
async fn a_handler_is_told_what_the_caller_reaches() {
    let site = site().await;
    let reached = async |credential: &str| {
        let request = site.stranger_get("/berths/api/v1/applications").bearer_auth(credential);
        request.send().await.unwrap().text().await.unwrap()
    };
    assert_eq!(reached("harbour/viewer/").await, "all");
    assert_eq!(reached("harbour//one=viewer,two=admin").await, "one,two");
}

#[tokio::test]
async fn what_is_public_needs_nothing() {
    let site = site().await;
    let answer = site.stranger_get("/berths/api/v1/open").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "welcome");
}

#[tokio::test]
async fn another_method_is_not_possible() {
    let site = site().await;
    for path in ["/berths/api/v1/open", "/berths/api/v1/crash"] {
        let answer = site.post(path).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["allow"]),
            (405, &"GET,HEAD".parse().unwrap())
        );
    }
    let head = reqwest::Client::new().head(site.url("/berths/api/v1/berths")).send().await.unwrap();
    assert_eq!(head.status(), 401);
}
