//! How many sockets each address has that have not said CONNECT yet.
//!
//! Connections are counted from CONNECT on (`connections`). What comes before it costs memory and handshakes too, so it
//! is counted when a socket is accepted: whoever only opens sockets does not keep others out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::throttle::network;

/// The key of the limit.
pub(crate) const CONNECTING_PER_ADDRESS: &str = "kpc.limits.connecting_per_address";

/// The addresses whose sockets have not said CONNECT yet.
#[derive(Debug)]
pub(crate) struct Addresses {
    max: usize,
    /// Only addresses that have some.
    connecting: Mutex<HashMap<IpAddr, usize>>,
}

/// A place among the sockets of an address; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, connecting: Mutex::default() })
    }

    /// Takes a place for a socket; none when the address has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut connecting = self.connecting.lock();
        let count = connecting.get(&address).copied().unwrap_or(0);
        if count >= self.max {
            return None;
        }
        connecting.insert(address, count + 1);
        Some(Place { addresses: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.addresses.connecting.lock().entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let addresses = Addresses::new(2);
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let mapped = parse("::ffff:10.0.0.1");
        let first = addresses.enter(one).unwrap();
        let _second = addresses.enter(mapped).unwrap();
        assert!(addresses.enter(one).is_none());
        assert!(addresses.enter(two).is_some());
        drop(first);
        assert!(addresses.enter(one).is_some());
        assert_eq!(addresses.connecting.lock().len(), 1);
        // One client may have many addresses of IPv6.
        let _third = addresses.enter(parse("2001:db8::1")).unwrap();
        let _fourth = addresses.enter(parse("2001:db8::ffff:2")).unwrap();
        assert!(addresses.enter(parse("2001:db8::3")).is_none());
        assert!(addresses.enter(parse("2001:db8:0:1::3")).is_some());
    }
}
