//! Sampling: one frame of N is shown, the others are only counted.
//!
//! AF_XDP samples in the XDP program, before the frame is copied or queued; a [`Sampler`] does the
//! same for the other sources.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;
use std::num::NonZeroU16;

/// Which frames are shown (RFC 5475, section 5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SamplingMode {
    /// The first of every N on each core: systematic, count-based.
    Deterministic,
    /// Each frame with a probability of 1/N, independent of the others.
    Random,
}

/// How a source samples: which packets it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sampling {
    /// Which frames are shown.
    pub mode: SamplingMode,
    /// N: one frame of N is shown.
    pub interval: NonZeroU16,
}

impl Sampling {
    /// Every frame is shown.
    pub const NONE: Self = Self {
        mode: SamplingMode::Deterministic,
        interval: NonZeroU16::MIN,
    };

    /// The sampler for one source; `seed` starts its random numbers.
    pub(crate) fn sampler(self, seed: u64) -> Sampler {
        const STREAM: u64 = 0xa02b_dbf7_bb3c_0a7a;
        Sampler {
            sampling: self,
            left: 0,
            random: Pcg32::new(seed, STREAM),
        }
    }
}

/// Samples the frames of one source.
pub(crate) struct Sampler {
    sampling: Sampling,
    /// Frames still to be left out in deterministic mode.
    left: u16,
    random: Pcg32,
}

impl Sampler {
    /// Whether the next frame is shown.
    #[inline]
    pub fn takes_next(&mut self) -> bool {
        let interval = self.sampling.interval.get();
        match self.sampling.mode {
            _ if interval == 1 => true,
            SamplingMode::Random => self.random.next_u32().is_multiple_of(interval.into()),
            SamplingMode::Deterministic if self.left == 0 => {
                self.left = interval - 1;
                true
            }
            SamplingMode::Deterministic => {
                self.left -= 1;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mode: SamplingMode, interval: u16, seed: u64) -> Vec<usize> {
        let mut sampler = Sampling {
            mode,
            interval: interval.try_into().unwrap(),
        }
        .sampler(seed);
        (0..100_000).filter(|_| sampler.takes_next()).collect()
    }

    #[test]
    fn deterministic_mode_shows_the_first_of_every_n() {
        assert_eq!(
            shown(SamplingMode::Deterministic, 30_000, 1),
            [0, 30_000, 60_000, 90_000]
        );
        assert_eq!(shown(SamplingMode::Deterministic, 1, 1).len(), 100_000);
        assert_eq!(Sampling::NONE.interval.get(), 1);
    }

    #[test]
    fn random_mode_shows_about_one_of_n_and_the_same_ones_for_the_same_seed() {
        let random = |seed| shown(SamplingMode::Random, 100, seed);
        // Five standard deviations of a binomial distribution around 1000.
        assert!(
            (843..1157).contains(&random(1).len()),
            "{}",
            random(1).len()
        );
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
        assert_eq!(shown(SamplingMode::Random, 1, 1).len(), 100_000);
    }
}
