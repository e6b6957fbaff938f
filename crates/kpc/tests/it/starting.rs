//! A gateway that cannot start.

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_port_is_taken_says_so_and_stops_without_delay() {
    let world = World::new().await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut platform = world.start(port, &[("process.stop_grace_ms", "3000")]).await;
    let error = format!("{:#}", platform.ready().await.unwrap_err());
    assert!(error.contains("kpc.mqtt.listen"), "{error}");
    // It is an error when something has not ended within the grace.
    platform.stop().await.unwrap();
}
