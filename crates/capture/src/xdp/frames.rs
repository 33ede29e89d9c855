//! The accounting of UMEM frames: where each one is.
//!
//! A UMEM frame is in exactly one place: with the kernel (fill ring or card), in the receive ring,
//! in the burst, with the caller, kept as the start of a frame whose end has not come, or idle.
//! Shown frames become idle and return to the fill ring at the end of the burst, or of a later one
//! while the kernel has not yet released the entries that it used. The fill ring has twice as many
//! entries as there are UMEM frames, so that this is rare; a UMEM frame whose failed return was
//! ignored would be lost for good.

use super::rings::{Descriptor, Rings};
use crate::source::BURST_MAX;

/// The UMEM frames of a socket that the kernel does not have.
pub(super) struct Frames<D> {
    /// What was received last; `burst[next..end]` is still to be shown.
    burst: Box<[D; BURST_MAX]>,
    next: usize,
    end: usize,
    unfinished: Option<Unfinished<D>>,
    idle: Vec<D>,
}

impl<D: Descriptor> Frames<D> {
    /// All frames of a UMEM, idle.
    pub fn new(idle: Vec<D>) -> Self {
        Self {
            burst: Box::new([D::default(); BURST_MAX]),
            next: 0,
            end: 0,
            unfinished: None,
            idle,
        }
    }

    /// Receives a burst once the last one has been shown; returns how many UMEM frames it has.
    #[inline]
    pub fn receive(&mut self, rings: &mut impl Rings<Descriptor = D>) -> usize {
        debug_assert_eq!(self.next, self.end, "the last burst has been shown");
        let received = rings.consume(&mut self.burst[..]);
        (self.next, self.end) = (0, received);
        received
    }

    /// The part of the burst that is still to be shown.
    #[inline]
    pub fn waiting(&self) -> &[D] {
        &self.burst[self.next..self.end]
    }

    /// Takes the next UMEM frame of the burst; [`join`](Self::join) takes it back.
    #[inline]
    pub fn next(&mut self) -> Option<D> {
        let descriptor = *self.waiting().first()?;
        self.next += 1;
        Some(descriptor)
    }

    /// Adds a UMEM frame to the frame that it belongs to; returns that frame once it is whole.
    #[inline]
    pub fn join(&mut self, descriptor: D) -> Option<Whole<D>> {
        if self.unfinished.is_none() && !descriptor.is_continued() {
            return Some(Whole {
                first: descriptor,
                last: None,
                octets: descriptor.octets(),
            });
        }
        self.join_several(descriptor)
    }

    #[inline(never)]
    fn join_several(&mut self, descriptor: D) -> Option<Whole<D>> {
        let joined = match self.unfinished.take() {
            None => Whole {
                first: descriptor,
                last: None,
                octets: descriptor.octets(),
            },
            Some(Unfinished { first, octets }) => Whole {
                first,
                last: Some(descriptor),
                octets: octets + descriptor.octets(),
            },
        };
        if !descriptor.is_continued() {
            return Some(joined);
        }
        // The first UMEM frame has the headers and is kept; of the others only the length counts.
        self.unfinished = Some(Unfinished {
            first: joined.first,
            octets: joined.octets,
        });
        self.idle.extend(joined.last);
        None
    }

    /// Takes back the UMEM frames of a frame that has been shown.
    #[inline]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a frame can be released only once"
    )]
    pub fn release(&mut self, shown: Whole<D>) {
        let Whole { first, last, .. } = shown;
        self.idle.push(first);
        if let Some(last) = last {
            self.idle.push(last);
        }
    }

    /// Returns idle UMEM frames to the fill ring, as many as it takes.
    #[inline]
    pub fn fill(&mut self, rings: &mut impl Rings<Descriptor = D>) {
        if !self.idle.is_empty() {
            let produced = rings.produce(&self.idle);
            self.idle.drain(..produced);
        }
    }

    /// UMEM frames that wait for room in the fill ring.
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }
}

/// A frame in one UMEM frame or several, with the caller until it is released.
#[must_use = "its UMEM frames would be lost"]
pub(super) struct Whole<D> {
    /// The UMEM frame with the headers.
    pub first: D,
    /// The UMEM frame with its end, if that is another.
    last: Option<D>,
    /// Octets in all of its UMEM frames.
    pub octets: u32,
}

/// A frame whose end has not come.
struct Unfinished<D> {
    first: D,
    octets: u32,
}

#[cfg(test)]
mod tests {
    use super::super::memory::{MemoryRings, Segment};
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What happens to UMEM frames, in any order.
    #[derive(Clone, Debug)]
    enum Step {
        /// The card receives a frame of so many segments.
        Arrive(usize),
        /// The reader receives a burst, after it has shown the last one.
        Receive,
        /// The reader takes so many UMEM frames of the burst and shows the frames that they
        /// complete.
        Show(usize),
        /// The fill ring takes at most so many UMEM frames at once.
        Fill(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..5).prop_map(Step::Arrive),
            Just(Step::Receive),
            (0usize..BURST_MAX).prop_map(Step::Show),
            prop_oneof![Just(0), 1usize..20, Just(usize::MAX)].prop_map(Step::Fill),
        ]
    }

    fn show(frames: &mut Frames<Segment>) -> Option<Vec<u32>> {
        let mut shown = Vec::new();
        let segment = frames.next()?;
        if let Some(whole) = frames.join(segment) {
            shown.push(whole.octets);
            frames.release(whole);
        }
        Some(shown)
    }

    /// The addresses of all UMEM frames, wherever they are; a duplicate or a loss changes it.
    fn addresses(frames: &Frames<Segment>, rings: &MemoryRings) -> Vec<u32> {
        let unfinished = frames.unfinished.iter().map(|unfinished| unfinished.first);
        let reader = frames.waiting().iter().copied().chain(unfinished);
        let reader = reader.chain(frames.idle.iter().copied());
        let mut all: Vec<_> = reader.map(|segment| segment.address).collect();
        all.extend(rings.addresses());
        all.sort_unstable();
        all
    }

    proptest! {
        /// Whatever arrives and whenever rings are empty or full, each UMEM frame is in exactly one
        /// place, and each frame is shown once with all its octets.
        #[test]
        fn each_umem_frame_is_in_exactly_one_place(
            count in 1u32..200,
            steps in vec(any_step(), 0..200),
        ) {
            let everywhere: Vec<u32> = (0..count).collect();
            let mut rings = MemoryRings::new(count);
            let mut frames = Frames::new(rings.umem());
            let (mut arrived, mut shown) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Arrive(segments) => {
                        let octets: Vec<u32> = (1..).take(segments).collect();
                        if rings.arrive(&octets).is_some() {
                            arrived.push(octets.iter().sum::<u32>());
                        }
                    }
                    Step::Receive => {
                        while let Some(octets) = show(&mut frames) {
                            shown.extend(octets);
                        }
                        let before = rings.received_count();
                        let received = frames.receive(&mut rings);
                        prop_assert_eq!(received, before.min(BURST_MAX));
                    }
                    Step::Show(count) => {
                        for octets in (0..count).map_while(|_| show(&mut frames)) {
                            shown.extend(octets);
                        }
                    }
                    Step::Fill(at_most) => {
                        let (idle, with_kernel) = (frames.idle_count(), rings.fill_count());
                        rings.produce_max = at_most;
                        frames.fill(&mut rings);
                        let produced = idle.min(at_most);
                        prop_assert_eq!(frames.idle_count(), idle - produced);
                        prop_assert_eq!(rings.fill_count(), with_kernel + produced);
                    }
                }
                prop_assert_eq!(&addresses(&frames, &rings), &everywhere);
            }
            prop_assert!(arrived.starts_with(&shown), "{:?} of {:?}", shown, arrived);
        }
    }
}
