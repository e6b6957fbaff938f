//! A NATS server for a test.

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::folder::Folder;
use crate::server::Server;
use crate::{Port, tool};

/// A running `nats-server` with JetStream, on a port of its own. It ends when this value is dropped.
#[derive(Debug)]
pub struct Nats {
    /// For example `nats://127.0.0.1:20017`; stays the same after [`Nats::restart`].
    pub url: String,
    name: String,
    port: Port,
    server: Server,
}

/// Starts a `nats-server` for the calling test.
///
/// # Panics
/// When the program is missing or does not answer within 30 seconds.
pub async fn nats() -> Nats {
    nats_with("").await
}

/// Starts a `nats-server` with more configuration, such as users, for the calling test.
///
/// # Panics
/// When the program is missing or does not answer within 30 seconds.
pub async fn nats_with(configuration: &str) -> Nats {
    let port = Port::reserve();
    let folder = Folder::new("nats-");
    let config = folder.path().join("nats-server.conf");
    std::fs::write(&config, configuration).expect("the configuration must be writable");
    let name = format!("testkit-{}", uuid::Uuid::new_v4().simple());
    let command = [
        tool::nats_server().into_os_string(),
        "--config".into(),
        config.into_os_string(),
        "--addr=127.0.0.1".into(),
        format!("--port={}", port.number()).into(),
        format!("--server_name={name}").into(),
        "--jetstream".into(),
        "--store_dir".into(),
        folder.path().join("jetstream").into_os_string(),
    ];
    let url = format!("nats://127.0.0.1:{}", port.number());
    let mut nats = Nats { url, name, port, server: Server::new(command.into(), "KILL", folder) };
    nats.start().await;
    nats
}

impl Nats {
    /// A new connection to the server. It reconnects by itself after [`Nats::restart`].
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(&self.url)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.url))
    }

    /// A new connection to the server as one of its users.
    pub async fn client_as(&self, user: &str, password: &str) -> async_nats::Client {
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            .custom_inbox_prefix(format!("_INBOX_{user}"))
            .connect(&self.url)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {} as {user}: {error}", self.url))
    }

    /// Ends the server at once, as `kill -9` would. JetStream's files stay.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Ends the server at once, if it still runs, and starts it on the same port and files; returns when it answers.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    async fn start(&mut self) {
        self.server.start();
        let greeting = self.server.ready(async || self.greeting().await).await;
        assert!(
            greeting.contains(&self.name),
            "another server listens on port {}: {greeting}",
            self.port.number()
        );
    }

    /// The first line that the server sends to a client.
    async fn greeting(&self) -> Option<String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port.number())).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.ok()?;
        line.starts_with("INFO ").then_some(line)
    }
}
