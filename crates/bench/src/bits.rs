//! A growing set of small numbers: one bit each, so that millions of messages cost little memory.

/// A set of message numbers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Adds a number; false when it was there already.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        let (word, mask) = place(number);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words.get_mut(word).is_some_and(|bits| {
            let new = *bits & mask == 0;
            *bits |= mask;
            new
        })
    }

    /// Takes a number out; false when it was not there.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let (word, mask) = place(number);
        self.words.get_mut(word).is_some_and(|bits| {
            let was = *bits & mask != 0;
            *bits &= !mask;
            was
        })
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        let (word, mask) = place(number);
        self.words.get(word).is_some_and(|bits| bits & mask != 0)
    }

    pub(crate) fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many numbers are here and not in `other`.
    pub(crate) fn count_missing_in(&self, other: &Self) -> u64 {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(others).map(|(word, other)| u64::from((word & !other).count_ones())).sum()
    }

    /// The numbers in rising order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip((0_u32..).step_by(64)).flat_map(|(word, base)| {
            (0..64_u32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| base + bit)
        })
    }
}

fn place(number: u32) -> (usize, u64) {
    let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
    (word, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_counts_and_compares_numbers() {
        let mut bits = Bits::default();
        for number in [0, 63, 64, 1000] {
            assert!(bits.insert(number));
        }
        assert!(!bits.insert(64), "it is there already");
        assert!(bits.contains(1000) && !bits.contains(999) && !bits.contains(70_000));
        assert_eq!(bits.len(), 4);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 1000]);

        let mut other = Bits::default();
        other.insert(63);
        assert_eq!(bits.count_missing_in(&other), 3, "the shorter set counts as zeros");
        assert_eq!(other.count_missing_in(&bits), 0);
        assert!(bits.remove(63) && !bits.remove(63) && !bits.remove(70_000));
        assert_eq!(bits.len(), 3);
    }
}
