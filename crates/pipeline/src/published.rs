//! Counters that their owner publishes now and then, and that any thread reads at no cost to the
//! owner.
//!
//! The owner counts in plain integers of its own. Publishing copies them into a block of atomic
//! words with relaxed stores between two steps of a sequence number, which is odd meanwhile; a
//! reader that saw it odd, or another one afterwards, reads again (a seqlock). So what is read is
//! what the owner had at one moment, and sums that hold for the owner hold for the reader.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A block of counters with one owner and any number of readers. `T` is made of 64-bit integers.
// Two cache lines: processors fetch lines in pairs, and no two owners may write to one pair.
#[repr(align(128))]
pub struct Published<T> {
    sequence: AtomicU64,
    words: Box<[AtomicU64]>,
    counters: PhantomData<fn(T) -> T>,
}

const WORD_OCTETS: usize = size_of::<u64>();

impl<T> Default for Published<T> {
    /// A block of zeros.
    fn default() -> Self {
        const {
            assert!(
                size_of::<T>().is_multiple_of(WORD_OCTETS),
                "counters are 64-bit integers"
            );
        }
        let words = (0..size_of::<T>() / WORD_OCTETS)
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            sequence: AtomicU64::new(0),
            words,
            counters: PhantomData,
        }
    }
}

impl<T: FromBytes + Immutable + IntoBytes> Published<T> {
    /// Publishes `counters` to every reader from now on. For the one owner: two that publish at the
    /// same time mix their counts.
    #[inline]
    pub fn publish(&self, counters: &T) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence
            .store(sequence.wrapping_add(1), Ordering::Relaxed);
        // The odd number is seen before any of the words, and all of them before the even one.
        fence(Ordering::Release);
        for (word, octets) in self
            .words
            .iter()
            .zip(counters.as_bytes().as_chunks::<WORD_OCTETS>().0)
        {
            word.store(u64::from_ne_bytes(*octets), Ordering::Relaxed);
        }
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// What the owner published last, as a whole.
    pub fn read(&self) -> T {
        let mut counters = T::new_zeroed();
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            for (word, octets) in self
                .words
                .iter()
                .zip(counters.as_mut_bytes().as_chunks_mut::<WORD_OCTETS>().0)
            {
                *octets = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return counters;
            }
            // The owner is publishing right now, or lost its core while it did.
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn what_is_read_was_published_as_a_whole() {
        let (block, stop) = (Published::<[u64; 50]>::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let owner = std::thread::Builder::new().spawn_scoped(scope, || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    block.publish(&[round; 50]);
                }
                round
            });
            let mut latest = 0;
            for _ in 0..100_000 {
                let read = block.read();
                assert!(read.iter().all(|&word| word == read[0]), "torn: {read:?}");
                assert!(read[0] >= latest, "it went back");
                latest = read[0];
            }
            stop.store(true, Ordering::Relaxed);
            let last = owner.unwrap().join().unwrap();
            assert_eq!(block.read(), [last; 50]);
        });
    }
}
