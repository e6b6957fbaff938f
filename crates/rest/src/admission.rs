//! How many connections may be open, in all and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts the open connections.
#[derive(Debug)]
pub(crate) struct Admission {
    connections_max: usize,
    per_address_max: usize,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    all: usize,
    /// Only addresses that have some.
    addresses: HashMap<IpAddr, usize>,
}

/// Why a connection is refused; the number is the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("{0} connections (http.connections_max) are open: try again later")]
    All(usize),
    #[error(
        "{0} connections of your address (http.connections_per_address_max) are open: close some or try again later"
    )]
    Address(usize),
}

impl Full {
    /// The key of the limit.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::All(_) => "connections_max",
            Self::Address(_) => "connections_per_address_max",
        }
    }
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(connections_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, per_address_max, open: Mutex::default() })
    }

    /// Takes a place for a connection from the address.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        // An IPv4 client of a listener on [::] is the same as one of a listener on 0.0.0.0.
        let address = address.to_canonical();
        let mut open = self.open.lock();
        if open.all >= self.connections_max {
            return Err(Full::All(self.connections_max));
        }
        let count = open.addresses.get(&address).copied().unwrap_or(0);
        if count >= self.per_address_max {
            return Err(Full::Address(self.per_address_max));
        }
        open.addresses.insert(address, count + 1);
        open.all += 1;
        Ok(Place { admission: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        open.all -= 1;
        if let Entry::Occupied(mut count) = open.addresses.entry(self.address) {
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
    fn places_are_counted_in_all_and_by_address_and_given_back() {
        let admission = Admission::new(3, 2);
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let first = admission.admit(one).unwrap();
        let _second = admission.admit(mapped).unwrap();
        assert_eq!(admission.admit(one).unwrap_err(), Full::Address(2));
        let third = admission.admit(two).unwrap();
        assert_eq!(admission.admit(two).unwrap_err(), Full::All(3));
        drop(third);
        drop(first);
        assert!(admission.admit(one).is_ok());
        assert_eq!(admission.open.lock().addresses.len(), 1);
    }
}
