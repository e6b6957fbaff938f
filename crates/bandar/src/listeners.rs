//! Where `bandar up` listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use runtime::{Faults, Settings};
use serde::Deserialize;

use crate::data::{DataDir, Running};

/// The listeners beside plain HTTP, each with the port that it will have.
pub(crate) struct Listeners {
    https: SocketAddr,
    mqtt: SocketAddr,
    mqtt_tls: SocketAddr,
    mqtt_ws: SocketAddr,
    mqtt_wss: SocketAddr,
    /// All of TLS at one port.
    tls_port: Option<SocketAddr>,
}

/// As much of the section `[http]` as is asked for here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Http {
    listen: Option<SocketAddr>,
    tls: Listen,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Listen {
    listen: Option<SocketAddr>,
}

/// As much of the section `[kpc]` as is asked for here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Kpc {
    mqtt: Mqtt,
    tls_port: Listen,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mqtt {
    listen: Option<SocketAddr>,
    tls: Listen,
    ws: Listen,
    wss: Listen,
}

impl Listeners {
    /// Reads them from the configuration. For port 0 a free one is chosen here, so that it can be told. `tls_port` is what the
    /// command line says of the single TLS port.
    pub(crate) fn of(given: &Settings, tls_port: Option<u16>) -> anyhow::Result<Self> {
        let http: Http = given.section("http").map_err(Faults)?;
        let Kpc { mqtt, tls_port: single } = given.section("kpc").map_err(Faults)?;
        // Who says where the plain one is served, says it for the others too: what is kept to this machine stays there.
        let chosen = |key: &str, listen: Option<SocketAddr>, plain: Option<SocketAddr>, port: u16| {
            let ip = plain.map_or(Ipv4Addr::UNSPECIFIED.into(), |plain| plain.ip());
            let port = if plain.is_some_and(|plain| plain.port() == 0) { 0 } else { port };
            with_port(key, listen.unwrap_or(SocketAddr::new(ip, port)))
        };
        let ip = mqtt.listen.map_or(Ipv4Addr::UNSPECIFIED.into(), |plain| plain.ip());
        let single = tls_port.map(|port| SocketAddr::new(ip, port)).or(single.listen);
        Ok(Self {
            https: chosen("http.tls.listen", http.tls.listen, http.listen, 8443)?,
            mqtt: chosen("kpc.mqtt.listen", mqtt.listen, None, 1883)?,
            mqtt_tls: chosen("kpc.mqtt.tls.listen", mqtt.tls.listen, mqtt.listen, 8883)?,
            mqtt_ws: chosen("kpc.mqtt.ws.listen", mqtt.ws.listen, mqtt.listen, 8083)?,
            mqtt_wss: chosen("kpc.mqtt.wss.listen", mqtt.wss.listen, mqtt.listen, 8084)?,
            tls_port: single.map(|listen| with_port("kpc.tls_port.listen", listen)).transpose()?,
        })
    }

    /// The settings that make the services listen there.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let all = [
            ("http.tls.listen", self.https),
            ("kpc.mqtt.listen", self.mqtt),
            ("kpc.mqtt.tls.listen", self.mqtt_tls),
            ("kpc.mqtt.ws.listen", self.mqtt_ws),
            ("kpc.mqtt.wss.listen", self.mqtt_wss),
        ];
        let single = self.tls_port.map(|listen| ("kpc.tls_port.listen", listen));
        all.into_iter().chain(single).map(|(key, listen)| (key.to_owned(), listen.to_string())).collect()
    }

    /// Where the platform is reached from this machine.
    pub(crate) fn running(&self, http: SocketAddr, data: &DataDir) -> Running {
        Running {
            pid: std::process::id(),
            http: format!("http://{}", from_here(http)),
            mqtt: from_here(self.mqtt).to_string(),
            https: format!("https://{}", from_here(self.https)),
            mqtt_tls: from_here(self.mqtt_tls).to_string(),
            mqtt_ws: format!("ws://{}/mqtt", from_here(self.mqtt_ws)),
            mqtt_wss: format!("wss://{}/mqtt", from_here(self.mqtt_wss)),
            tls_port: self.tls_port.map(|listen| from_here(listen).to_string()),
            root_certificate: data.path().join("tls/ca.pem"),
        }
    }
}

fn with_port(key: &str, mut listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    if listen.port() == 0 {
        let port = crate::backing::ports::free_on(listen.ip());
        listen.set_port(port.with_context(|| format!("no free port on {}; set {key}", listen.ip()))?);
    }
    Ok(listen)
}

/// The address to connect to from this machine for one that is listened on.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_reached() {
        let shown = |listen: &str| from_here(listen.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(shown("[::]:1883"), "[::1]:1883");
        assert_eq!(shown("192.0.2.7:80"), "192.0.2.7:80");
    }

    #[test]
    fn what_is_not_given_follows_the_plain_one() {
        let listeners = |given: &[(&str, &str)]| {
            let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Listeners::of(&Settings::from_layers(None, Vec::new(), given.collect()), None).unwrap()
        };
        let defaults = listeners(&[]);
        assert_eq!(defaults.mqtt_tls.to_string(), "0.0.0.0:8883");
        assert_eq!(defaults.https.to_string(), "0.0.0.0:8443");
        assert_eq!(defaults.tls_port, None);
        let local =
            listeners(&[("kpc.mqtt.listen", "127.0.0.1:0"), ("kpc.mqtt.ws.listen", "127.0.0.1:8000")]);
        assert_eq!(local.mqtt_ws.to_string(), "127.0.0.1:8000");
        assert!(local.mqtt_tls.ip().is_loopback() && ![0, 8883].contains(&local.mqtt_tls.port()));
        assert_eq!(local.https.to_string(), "0.0.0.0:8443");
        let local = listeners(&[("http.listen", "127.0.0.1:8080")]);
        assert_eq!(local.https.to_string(), "127.0.0.1:8443", "HTTP that is kept to this machine");
        assert_eq!(local.mqtt_tls.to_string(), "0.0.0.0:8883");
        let local = listeners(&[("http.listen", "127.0.0.1:0")]);
        assert!(local.https.ip().is_loopback() && ![0, 8443].contains(&local.https.port()));
    }

    #[test]
    fn the_single_port_is_where_mqtt_is_unless_it_is_given() {
        let single = |given: &[(&str, &str)], port| {
            let given = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let settings = Settings::from_layers(None, Vec::new(), given.collect());
            let listeners = Listeners::of(&settings, port).unwrap();
            let set = listeners.settings().into_iter().find(|(key, _)| key == "kpc.tls_port.listen");
            set.map(|(_, listen)| listen)
        };
        assert_eq!(single(&[], None), None);
        assert_eq!(single(&[], Some(443)).unwrap(), "0.0.0.0:443");
        assert_eq!(single(&[("kpc.mqtt.listen", "127.0.0.1:0")], Some(443)).unwrap(), "127.0.0.1:443");
        let given = [("kpc.tls_port.listen", "192.0.2.7:443")];
        assert_eq!(single(&given, None).unwrap(), "192.0.2.7:443");
        assert_eq!(single(&given, Some(8_444)).unwrap(), "0.0.0.0:8444");
        assert_ne!(single(&[], Some(0)).unwrap(), "0.0.0.0:0");
    }
}
