//! The clock hand, which passes every set of the cache at a steady pace.
//!
//! The longer the time that went by, the more sets the hand has to pass: all of them in half a
//! second.

use std::ops::Range;

/// Time in which the clock hand passes every place once, in ms. Together with the turn that
/// notices, no flow is expired later than a second after it is due.
pub const HAND_ROUND_MS: u64 = 500;

/// The position of the clock hand, and how far it is behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hand {
    /// Sets of a round.
    sets: usize,
    /// The set that the hand passes next.
    position: usize,
    /// Uptime of the last advance, in ms.
    advanced_ms: u64,
    /// Sets that it still has to pass for the time up to then.
    behind: u64,
    /// The rest of the division by which that time became sets, in sets * ms.
    remainder: u64,
    /// Sets ahead in which it has to read every flow, whatever is noted of them.
    read_all: usize,
    /// Sets ahead in which it has to read the flows that are nearly due as well.
    read_nearly_due: usize,
}

/// Which flows of the sets ahead the hand has to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// Those that are noted as due.
    Due,
    /// Those that are noted as due, or as due less than a tick later.
    NearlyDue,
    /// All.
    All,
}

impl Hand {
    /// A hand at the first of `sets` sets, at uptime 0.
    pub(super) fn new(sets: usize) -> Self {
        Self {
            sets,
            position: 0,
            advanced_ms: 0,
            behind: 0,
            remainder: 0,
            read_all: 0,
            read_nearly_due: 0,
        }
    }

    /// Sets the uptime from which on it moves, in ms.
    pub(super) fn start_at(&mut self, now_ms: u64) {
        self.advanced_ms = now_ms;
    }

    /// Uptime of the last advance, in ms.
    pub(super) fn advanced_ms(&self) -> u64 {
        self.advanced_ms
    }

    /// The time since the last advance, in ms.
    #[inline]
    pub(super) fn elapsed_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.advanced_ms)
    }

    /// Returns how many sets the hand has to pass at `now_ms`: at most `sets_max`, and the rest
    /// later. However much time went by, this is one full round at most.
    #[inline]
    pub(super) fn advance(&mut self, now_ms: u64, sets_max: usize) -> usize {
        let round = self.sets as u64;
        let way = self.elapsed_ms(now_ms).min(HAND_ROUND_MS) * round + self.remainder;
        self.advanced_ms = self.advanced_ms.max(now_ms);
        self.remainder = way % HAND_ROUND_MS;
        let behind = (self.behind + way / HAND_ROUND_MS).min(round);
        let passed = behind.min(sets_max as u64);
        self.behind = behind - passed;
        usize::try_from(passed).expect("at most sets_max")
    }

    /// Moves past `count` sets, but not beyond the last one, and returns them.
    #[inline]
    pub(super) fn pass(&mut self, count: usize) -> Range<usize> {
        let start = self.position;
        let end = self.sets.min(start.saturating_add(count));
        self.position = if end == self.sets { 0 } else { end };
        start..end
    }

    /// Whether it is where it should be.
    #[inline]
    pub(super) fn is_on_time(&self) -> bool {
        self.behind == 0
    }

    /// Makes the hand read every flow, for one round.
    #[inline]
    pub(super) fn start_reading_all(&mut self) {
        self.read_all = self.sets;
    }

    /// Makes the hand read the flows that are nearly due as well, for one round.
    #[inline]
    pub(super) fn start_reading_nearly_due(&mut self) {
        self.read_nearly_due = self.sets;
    }

    /// Whether the hand has to read every flow of the sets that it passes next.
    #[inline]
    pub(super) fn reads_all(&self) -> bool {
        self.read_all > 0
    }

    /// Which flows of the sets that it passes next it has to read.
    #[inline]
    pub(super) fn reading(&self) -> Reading {
        match (self.read_all, self.read_nearly_due) {
            (0, 0) => Reading::Due,
            (0, _) => Reading::NearlyDue,
            _ => Reading::All,
        }
    }

    /// Counts sets that were passed.
    #[inline]
    pub(super) fn has_read(&mut self, sets: usize) {
        self.read_all = self.read_all.saturating_sub(sets);
        self.read_nearly_due = self.read_nearly_due.saturating_sub(sets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sets that the hand passes until `now_ms`, in pieces.
    fn passed(hand: &mut Hand, now_ms: u64) -> Vec<Vec<usize>> {
        let (mut left, mut passed) = (hand.advance(now_ms, usize::MAX), Vec::new());
        while left > 0 {
            let sets = hand.pass(left);
            left -= sets.len();
            passed.push(sets.collect());
        }
        passed
    }

    #[test]
    fn the_hand_passes_each_set_once_a_round_whatever_the_steps() {
        for step_ms in [1, 3, 7, 50] {
            let mut hand = Hand::new(77);
            let mut visits = [0; 77];
            for now_ms in (0..=HAND_ROUND_MS * 21).step_by(step_ms) {
                for set in passed(&mut hand, now_ms).concat() {
                    visits[set] += 1;
                }
            }
            assert!(
                visits.iter().all(|visits| (20..=21).contains(visits)),
                "{visits:?}"
            );
        }
    }

    #[test]
    fn the_hand_is_at_most_a_round_behind() {
        let mut hand = Hand::new(10);
        assert_eq!(passed(&mut hand, 200).concat(), [0, 1, 2, 3]);
        let round: [&[usize]; 2] = [&[4, 5, 6, 7, 8, 9], &[0, 1, 2, 3]];
        assert_eq!(passed(&mut hand, 1 << 40), round);
        assert!(hand.is_on_time());
    }
}
