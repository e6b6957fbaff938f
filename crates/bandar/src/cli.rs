//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Bandar: devices dock here over MQTT and HTTP.
#[derive(Debug, Parser)]
#[command(name = "bandar", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole platform on this machine, with a NATS server and a PostgreSQL of its own unless NATS_URL and
    /// DATABASE_URL name others.
    Up(Up),
    /// Run one or several services; NATS_URL and DATABASE_URL say what they work with.
    Run(Run),
    /// Create a demo application, endpoint and token (once), and print commands that use them.
    Demo(Demo),
    /// Check the configuration and report every fault.
    CheckConfig(CheckConfig),
    /// Print the users of a cluster's nats-server, one for each service, with what each may do.
    NatsConfig(NatsConfig),
}

/// Where the configuration comes from, beside the environment (`BANDAR__SECTION__KEY`).
#[derive(Debug, Clone, Args)]
pub(crate) struct Configuration {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "BANDAR_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

/// Where the data of `bandar up` lies.
#[derive(Debug, Clone, Args)]
pub(crate) struct Data {
    /// Data directory.
    #[arg(long = "data", value_name = "DIR", env = "BANDAR_DATA", default_value = ".bandar")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    pub(crate) configuration: Configuration,
    /// Where HTTP is served (http.listen). HTTPS follows its address, and takes a free port if it has port 0.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen_http: Option<SocketAddr>,
    /// Where MQTT is served (kpc.mqtt.listen). MQTT over TLS and WebSocket follow its address, and take free ports if
    /// it has port 0.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen_mqtt: Option<SocketAddr>,
    /// One more port, usually 443, that serves all that is served over TLS: MQTT, HTTPS and WebSocket, by what the client
    /// offers in its TLS handshake (ALPN). For devices behind firewalls that let no other port out. 0 takes a free port.
    #[arg(long, value_name = "PORT")]
    pub(crate) tls_port: Option<u16>,
    /// An extension service of your own that joins the platform: gets a NATS user, written to DIR/extensions/NAME.env.
    /// May be repeated; those of earlier starts are kept.
    #[arg(long = "extension", value_name = "NAME")]
    pub(crate) extensions: Vec<String>,
    /// A name or address by which devices reach this machine, for its certificate, beside the host name and localhost.
    /// May be repeated.
    #[arg(long = "tls-name", value_name = "NAME")]
    pub(crate) tls_names: Vec<String>,
    /// Also do what `bandar demo` does, once the platform is ready.
    #[arg(long)]
    pub(crate) demo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The services to run in this process.
    #[arg(required = true, value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    #[command(flatten)]
    pub(crate) configuration: Configuration,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) data: Data,
    /// The platform's address; by default what the data directory says, else http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", env = "BANDAR_URL")]
    pub(crate) url: Option<String>,
    /// The gateway's MQTT address, for the printed commands.
    #[arg(long, value_name = "HOST:PORT", env = "BANDAR_MQTT")]
    pub(crate) mqtt: Option<String>,
    /// The API key; by default the one in the data directory's credentials.json.
    #[arg(long, value_name = "KEY", env = "BANDAR_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NatsConfig {
    /// An extension service of your own that joins the platform; may be repeated.
    #[arg(long = "extension", value_name = "NAME")]
    pub(crate) extensions: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// The services whose sections are checked; all when none is named.
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    #[command(flatten)]
    pub(crate) configuration: Configuration,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
