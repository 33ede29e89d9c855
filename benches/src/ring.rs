//! A receive ring in memory: the [`Source`] of a worker that is measured.

use crate::frames::{ETHERNET, Frames};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use std::sync::Arc;
use std::time::Duration;
use xdprobe_pipeline::capture::{
    BURST_MAX, CaptureError, CaptureTime, Frame, Received, Source, SourceCounters,
};

/// Shows the frames that its [`RingFiller`] gives it, a burst a call, as an AF_XDP queue does: the
/// headers are prefetched, frames and octets are counted.
pub struct Ring {
    filled: Receiver<Arc<Frames>>,
    frames: Option<Arc<Frames>>,
    /// The next frame to be shown.
    next: usize,
    counters: SourceCounters,
}

/// Gives a [`Ring`] its frames. Once it is dropped, the ring's frames end.
pub struct RingFiller(Sender<Arc<Frames>>);

/// An empty ring, and what fills it.
#[must_use]
pub fn ring() -> (RingFiller, Ring) {
    let (filler, filled) = bounded(1);
    let ring = Ring {
        filled,
        frames: None,
        next: 0,
        counters: SourceCounters::default(),
    };
    (RingFiller(filler), ring)
}

impl RingFiller {
    /// Lets the ring show `frames` next, each once. It holds them until the last was shown.
    ///
    /// # Panics
    ///
    /// If the ring still has earlier frames or is gone.
    pub fn fill(&self, frames: Arc<Frames>) {
        assert!(
            self.0.try_send(frames).is_ok(),
            "the ring exists and its frames were shown"
        );
    }
}

impl Source for Ring {
    #[inline]
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
        let Self {
            filled,
            frames: present,
            next,
            counters,
        } = self;
        if present.is_none() {
            match filled.try_recv() {
                Ok(frames) => (*present, *next) = (Some(frames), 0),
                Err(TryRecvError::Empty) => return Ok(Received::Nothing),
                Err(TryRecvError::Disconnected) => return Ok(Received::End),
            }
        }
        let frames = present.as_deref().expect("the ring has frames by now");
        let count = BURST_MAX.min(frames.len() - *next);
        frames.show(*next, count, |octets, wire_octets| {
            counters.received += 1;
            counters.received_octets += u64::from(wire_octets);
            each(Frame {
                octets,
                wire_octets,
                link: ETHERNET,
                captured: CaptureTime::AtReceipt,
            });
        });
        *next += count;
        if *next == frames.len() {
            *present = None;
        }
        Ok(Received::Frames)
    }

    fn wait(&mut self, _timeout: Duration) {}

    fn counters(&self) -> SourceCounters {
        self.counters
    }
}
