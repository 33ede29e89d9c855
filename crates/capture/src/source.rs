//! A source of frames, whatever it is: an AF_XDP queue, libpcap, a capture file, or a test.

use crate::counters::SourceCounters;
use crate::error::CaptureError;
use crate::filter::Filter;
use crate::frame::Frame;
use crate::sampling::Sampling;
use std::time::Duration;

/// The most frames that one call of [`Source::receive`] shows.
pub const BURST_MAX: usize = 64;

/// A source of frames.
pub trait Source: Send {
    /// Shows up to [`BURST_MAX`] waiting frames to `each`, oldest first. Never waits.
    ///
    /// # Errors
    ///
    /// [`CaptureError`] once the source can give no more frames; all earlier frames have been
    /// shown.
    fn receive(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError>;

    /// Sleeps until frames may be waiting, at most for `timeout`.
    fn wait(&mut self, timeout: Duration);

    /// What the source has received, left out and lost, as far as it counts losses itself. Makes
    /// no system call.
    fn counters(&self) -> SourceCounters;

    /// Reads the losses that only the kernel counts. Makes a system call: at most once a second.
    fn look_for_losses(&mut self) {}

    /// Whether the link is down. Frames arrive again without further action once it is up.
    fn is_down(&self) -> bool {
        false
    }

    /// Whether no frame arrives any more once the probe has stopped redirecting, so that what waits
    /// can be read to its end.
    fn runs_dry(&self) -> bool {
        false
    }

    /// Changes the filter or the sampling while the source runs. Frames shown from the next call
    /// of [`receive`](Self::receive) on follow the new setting.
    ///
    /// # Errors
    ///
    /// [`Unchangeable`] names the setting and says why it cannot be changed here; the source
    /// continues with the old one.
    fn apply(&mut self, change: SourceChange) -> Result<(), Unchangeable> {
        Err(Unchangeable {
            setting: change.setting(),
            reason: "this source has a fixed configuration".to_owned(),
        })
    }
}

/// The result of one [`Source::receive`] call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// Frames were taken, whether shown, filtered or sampled out; more may be waiting.
    Frames,
    /// No frame is waiting.
    Nothing,
    /// There will be no more frames.
    End,
}

/// A setting that a running source is asked to take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceChange {
    /// Show only the frames that match; `None` shows all.
    Filter(Option<Filter>),
    /// Show one frame of N.
    Sampling(Sampling),
}

impl SourceChange {
    /// The setting's name, for messages.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Filter(_) => "filter",
            Self::Sampling(_) => "sampling",
        }
    }
}

/// Why a source keeps its setting.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{setting} cannot be changed: {reason}")]
pub struct Unchangeable {
    /// The setting's name, as [`SourceChange::setting`] gives it.
    pub setting: &'static str,
    /// Why it cannot be changed, and where it can if anywhere.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Source for Fixed {
        fn receive(&mut self, _: &mut impl FnMut(Frame<'_>)) -> Result<Received, CaptureError> {
            Ok(Received::End)
        }

        fn wait(&mut self, _: Duration) {}

        fn counters(&self) -> SourceCounters {
            SourceCounters::default()
        }
    }

    #[test]
    fn a_source_that_takes_no_changes_refuses_them_by_name() {
        for (change, refused) in [
            (SourceChange::Filter(None), "filter cannot be changed: "),
            (
                SourceChange::Sampling(Sampling::NONE),
                "sampling cannot be changed: ",
            ),
        ] {
            let error = Fixed.apply(change).unwrap_err().to_string();
            assert!(error.starts_with(refused), "{error}");
        }
    }
}
