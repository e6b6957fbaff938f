//! Ports that stay ours while a server is down.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::tool;

/// The ports to choose from lie below the range from which systems give ports to outgoing connections (32768 on Linux),
/// so nobody takes one by chance while its server restarts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A TCP port of 127.0.0.1 that no other test on this machine gets while this value lives.
///
/// It is for servers that must come back on the same port, or that cannot listen on port 0.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the system frees it when the process ends.
    _lock: File,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Panics
    /// When all are taken, or the folder of the lock files cannot be written.
    #[must_use]
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes start at different places, so that they seldom meet.
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap();
        let locks = tool::own_folder("ports");
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (start + step) % COUNT;
            let path = locks.join(number.to_string());
            let lock =
                File::create(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
            match lock.try_lock() {
                Ok(()) if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() => {
                    return Self { number, _lock: lock };
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("cannot lock {}: {error}", path.display()),
            }
        }
        panic!("no port from {FIRST} on is free: end the servers that listen there");
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}
