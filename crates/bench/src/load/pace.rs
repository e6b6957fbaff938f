//! When a device sends its next message.

use std::time::{Duration, Instant};

/// At once, or at fixed times.
#[derive(Debug)]
pub(crate) enum Pace {
    /// As soon as there is room among the messages in flight.
    AtOnce,
    /// At fixed times, whether the platform keeps up or not.
    Fixed { next: Instant, every: Duration },
}

impl Pace {
    /// The pace of device `index` of `devices` that send `rate` messages per second together, evenly spread.
    pub(crate) fn new(rate: Option<u32>, devices: u32, index: u32) -> Self {
        let Some(rate) = rate else { return Self::AtOnce };
        let between = Duration::from_secs(1) / rate.max(1);
        Self::Fixed { next: Instant::now() + between * index, every: between * devices }
    }

    /// When the next message is or was due, if that is not in the future; it counts as sent then.
    pub(crate) fn next_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::AtOnce => Some(now),
            Self::Fixed { next, every } => (*next <= now).then(|| std::mem::replace(next, *next + *every)),
        }
    }

    /// The time to wait for, when there is one.
    pub(crate) const fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::AtOnce => None,
            Self::Fixed { next, .. } => Some(*next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_pace_is_spread_over_the_devices_and_catches_up() {
        let mut pace = Pace::new(Some(100), 50, 49);
        let Pace::Fixed { next, every } = pace else { panic!("a rate gives a fixed pace") };
        assert_eq!(every, Duration::from_millis(500));
        assert!(next > Instant::now() + Duration::from_millis(400));
        assert_eq!(pace.next_due(), None);

        let start = Instant::now().checked_sub(Duration::from_millis(950)).unwrap();
        pace = Pace::Fixed { next: start, every };
        assert_eq!(pace.next_due(), Some(start));
        assert_eq!(
            pace.next_due(),
            Some(start + every),
            "it is late, and the message counts from when it was due"
        );
        assert_eq!(pace.next_due(), None);
        assert_eq!(pace.wake_at(), Some(start + every * 2));
    }
}
