//! Ports on the loopback interface, chosen once and kept.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, bail};
use rand::RngExt as _;

/// Below what Linux hands out to outgoing connections (32768 and up), so that none of these takes a port away while
/// its server is down.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: u32 = 100;

/// The port in `file` if it is free, else a new one, which is written there.
pub(crate) fn kept(file: &Path) -> anyhow::Result<u16> {
    let former = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(former) = former.filter(|port| is_free(*port)) {
        return Ok(former);
    }
    let mut random = rand::rng();
    let found = (0..ATTEMPTS).map(|_| random.random_range(RANGE)).find(|port| is_free(*port));
    let Some(port) = found else {
        bail!("no free port found between {} and {} on 127.0.0.1", RANGE.start, RANGE.end)
    };
    std::fs::write(file, format!("{port}\n")).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(port)
}

/// A port that is free on an address right now.
pub(crate) fn free_on(address: IpAddr) -> std::io::Result<u16> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?.port())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_kept_until_someone_else_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("port");
        let first = kept(&file).unwrap();
        assert_eq!(kept(&file).unwrap(), first);
        let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        let second = kept(&file).unwrap();
        assert_ne!(second, first);
        assert_eq!(kept(&file).unwrap(), second);
    }
}
