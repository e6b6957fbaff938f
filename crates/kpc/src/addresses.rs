//! How many sockets each address has that have not said CONNECT yet.
//!
//! Connections are counted from CONNECT on (`connections`). What comes before it costs memory and handshakes too, so it
//! is counted when a socket is accepted: whoever only opens sockets does not keep others out.

use std::net::IpAddr;

use crate::places::{self, Places};
use crate::throttle::network;

/// The key of the limit.
pub(crate) const CONNECTING_PER_ADDRESS: &str = "kpc.limits.connecting_per_address";

/// The addresses whose sockets have not said CONNECT yet.
#[derive(Debug)]
pub(crate) struct Addresses(Places<IpAddr>);

/// A place among the sockets of an address.
pub(crate) type Place = places::Place<IpAddr>;

impl Addresses {
    pub(crate) fn new(max: usize) -> Self {
        Self(Places::new(usize::MAX, max))
    }

    /// Takes a place for a socket; none when the address has as many as it may.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        self.0.enter(network(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_one_address() {
        let addresses = Addresses::new(2);
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let _first = addresses.enter(parse("10.0.0.1")).unwrap();
        let _second = addresses.enter(parse("::ffff:10.0.0.1")).unwrap();
        assert!(addresses.enter(parse("10.0.0.1")).is_none());
        assert!(addresses.enter(parse("10.0.0.2")).is_some());
        // One client may have many addresses of IPv6.
        let _third = addresses.enter(parse("2001:db8::1")).unwrap();
        let _fourth = addresses.enter(parse("2001:db8::ffff:2")).unwrap();
        assert!(addresses.enter(parse("2001:db8::3")).is_none());
        assert!(addresses.enter(parse("2001:db8:0:1::3")).is_some());
    }
}
