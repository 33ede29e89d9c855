//! The clock hand, which passes every set of the cache at a steady pace.
//!
//! The hand is paid in time and owes sets: of each half second that goes by, it owes a round.

use std::ops::Range;

/// Time in which the clock hand passes every place once, in ms. Together with the turn that
/// notices, no flow is expired later than a second after it is due.
pub const HAND_ROUND_MS: u64 = 500;

/// The position of the clock hand, and what it still has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hand {
    /// Sets of a round.
    sets: usize,
    /// The set that the hand passes next.
    position: usize,
    /// Uptime up to which its way is paid for, in ms.
    paid_ms: u64,
    /// Sets that it owes for the time up to then.
    owed: u64,
    /// What division left over of `paid_ms`, in sets * ms.
    remainder: u64,
    /// Sets ahead in which it has to read every flow, whatever is noted of them.
    unsure: usize,
}

impl Hand {
    /// A hand at the first of `sets` sets, at uptime 0.
    pub(super) fn new(sets: usize) -> Self {
        Self {
            sets,
            position: 0,
            paid_ms: 0,
            owed: 0,
            remainder: 0,
            unsure: 0,
        }
    }

    /// The time in ms that passes if it is now `now_ms`.
    #[inline]
    pub(super) fn elapsed_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.paid_ms)
    }

    /// Lets the time up to `now_ms` pass, and returns how many sets the hand has to pass now: at
    /// most `sets_max`; it owes the rest. After a long absence one full round is all that it owes.
    #[inline]
    pub(super) fn advance(&mut self, now_ms: u64, sets_max: usize) -> usize {
        let round = self.sets as u64;
        let paid = self.elapsed_ms(now_ms).min(HAND_ROUND_MS) * round + self.remainder;
        self.paid_ms = self.paid_ms.max(now_ms);
        self.remainder = paid % HAND_ROUND_MS;
        let owed = (self.owed + paid / HAND_ROUND_MS).min(round);
        let passed = owed.min(sets_max as u64);
        self.owed = owed - passed;
        usize::try_from(passed).expect("at most sets_max")
    }

    /// Moves past `count` sets, or those up to the last one if these are fewer, and returns them.
    #[inline]
    pub(super) fn pass(&mut self, count: usize) -> Range<usize> {
        let start = self.position;
        let end = self.sets.min(start + count);
        self.position = if end == self.sets { 0 } else { end };
        start..end
    }

    /// Whether it is where it should be.
    #[inline]
    pub(super) fn is_on_time(&self) -> bool {
        self.owed == 0
    }

    /// The set that the hand passes next.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// From here it reads every flow, for one round.
    #[inline]
    pub(super) fn distrust_notes(&mut self) {
        self.unsure = self.sets;
    }

    /// Whether a flow ahead may not be noted as it should be.
    #[inline]
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure > 0
    }

    /// Counts sets of which every flow was read.
    #[inline]
    pub(super) fn has_read(&mut self, sets: usize) {
        self.unsure = self.unsure.saturating_sub(sets);
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
    fn the_hand_owes_at_most_a_round() {
        let mut hand = Hand::new(10);
        assert_eq!(passed(&mut hand, 200).concat(), [0, 1, 2, 3]);
        let round: [&[usize]; 2] = [&[4, 5, 6, 7, 8, 9], &[0, 1, 2, 3]];
        assert_eq!(passed(&mut hand, 1 << 40), round);
        assert!(hand.is_on_time());
    }
}
