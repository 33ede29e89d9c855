//! What a watch over an interface finds: what is no longer as it was when the probe began to
//! receive, and frames that the link counted and the XDP program did not see.
//!
//! Here is what is remembered from look to look, without a system call;
//! [`XdpInterface::look`](super::XdpInterface::look) asks the kernel.

use crate::interface::LinkCount;

/// Something that is no longer as it was, or was not a moment ago.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Its kind.
    pub reason: Reason,
    /// What was found, and what the watch did about it.
    pub what: String,
    /// The latest look found it, and could not mend it.
    pub lasts: bool,
}

/// Why a probe may not see the frames of its interface.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// The XDP program was detached or replaced.
    Program,
    /// The kernel unbound the sockets, or another process took them out of the program's map.
    Sockets,
    /// The interface was removed, or moved to another network namespace.
    Namespace,
    /// The number of channels changed, and not all of them are read.
    Channels,
    /// The link counts frames that the program did not see.
    Unseen,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Program,
        Self::Sockets,
        Self::Namespace,
        Self::Channels,
        Self::Unseen,
    ];

    /// The name in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Sockets => "sockets",
            Self::Namespace => "namespace",
            Self::Channels => "channels",
            Self::Unseen => "unseen",
        }
    }

    /// Whether no frame at all is received meanwhile; for the others it is a part of them.
    #[must_use]
    pub fn is_total(self) -> bool {
        match self {
            Self::Program | Self::Sockets | Self::Namespace => true,
            Self::Channels | Self::Unseen => false,
        }
    }
}

/// A difference is reported until so many looks in a row did not find it: also one that was mended
/// at once is seen by a reader that looks every few seconds.
const CALM_LOOKS: u32 = 5;

/// The differences of an interface.
#[derive(Default)]
pub(super) struct Differences {
    kinds: [Kind; Reason::ALL.len()],
}

/// What a look found.
pub(super) struct Found {
    pub what: String,
    /// The watch has mended it.
    pub is_mended: bool,
}

impl Found {
    /// What the watch can do nothing about.
    pub fn lasting(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            is_mended: false,
        }
    }

    /// What the watch has mended.
    pub fn mended(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            is_mended: true,
        }
    }
}

#[derive(Default)]
struct Kind {
    what: Option<String>,
    lasts: bool,
    calm_looks: u32,
    begun: u64,
}

impl Differences {
    /// Notes what one look found of one kind.
    pub fn note(&mut self, reason: Reason, found: Option<Found>) {
        let kind = &mut self.kinds[reason as usize];
        match found {
            Some(Found { what, is_mended }) => {
                kind.begun += u64::from(kind.what.is_none());
                (kind.what, kind.lasts, kind.calm_looks) = (Some(what), !is_mended, 0);
            }
            None => {
                kind.lasts = false;
                kind.calm_looks += 1;
                if kind.calm_looks >= CALM_LOOKS {
                    kind.what = None;
                }
            }
        }
    }

    /// Those that are to be reported.
    pub fn present(&self) -> Vec<Difference> {
        let with_reasons = Reason::ALL.into_iter().zip(&self.kinds);
        let present = with_reasons.filter_map(|(reason, kind)| {
            Some(Difference {
                reason,
                what: kind.what.clone()?,
                lasts: kind.lasts,
            })
        });
        present.collect()
    }

    /// How often each kind has begun.
    pub fn begun(&self) -> [u64; Reason::ALL.len()] {
        self.kinds.each_ref().map(|kind| kind.begun)
    }
}

/// Both counts of an interface's frames, read at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// What the XDP program had counted just before the link was read.
    pub program_before: u64,
    /// What the link had counted.
    pub link: u64,
    /// What the XDP program had counted just after that.
    pub program_after: u64,
}

impl Reading {
    /// Frames that the program counted while the reading was taken: by so many it may be wrong.
    pub fn width(&self) -> u64 {
        self.program_after.saturating_sub(self.program_before)
    }

    /// Frames that the link counted since an earlier reading and the program did not: at least so
    /// many, whatever came between the two counts of a reading.
    fn unseen_since(&self, earlier: &Self) -> u64 {
        let program = self.program_after.saturating_sub(earlier.program_before);
        self.link
            .saturating_sub(earlier.link)
            .saturating_sub(program)
    }

    /// Few enough to be frames that were between the program and the link's count, with a margin of
    /// so many.
    fn is_noise(&self, earlier: &Self, margin: u64) -> bool {
        let hundredth = self.link.saturating_sub(earlier.link) / 100;
        self.unseen_since(earlier) <= margin + hundredth
    }
}

/// Frames that the link counted and the program did not see.
pub(super) struct Unseen {
    counts: LinkCount,
    /// The reading of the latest look.
    latest: Reading,
    /// Where the present window began, and how many looks ago.
    window: (Reading, u32),
    /// Where the present period of unseen frames began.
    since: Option<Reading>,
    /// Of earlier periods, and of the present one.
    counted: (u64, u64),
}

/// Frames of one channel that may be between program and link's count: two polls of a driver.
const UNDER_WAY_FRAMES: u64 = 128;
/// The same while few frames come, so that few are under way.
const UNDER_WAY_FRAMES_MIN: u64 = 8;
/// Looks after which a window without a finding is begun anew: what a card counts a little
/// differently does not add up.
const WINDOW_LOOKS: u32 = 60;

impl Unseen {
    /// Compares from this reading on.
    pub fn since(counts: LinkCount, first: Reading) -> Self {
        Self {
            counts,
            latest: first,
            window: (first, 0),
            since: None,
            counted: (0, 0),
        }
    }

    /// How the link counts.
    pub fn link_count(&self) -> LinkCount {
        self.counts
    }

    /// Compares the counts of a look. `is_blind`: the program was not attached for some of the time
    /// since the last look, so that frames are known to have passed. Returns whether frames pass
    /// unseen, by the counts.
    pub fn look(&mut self, now: Reading, channels: u32, is_blind: bool) -> bool {
        let latest = std::mem::replace(&mut self.latest, now);
        if now.link < latest.link {
            // The driver began its count anew, with other channels for example.
            self.end_period(now);
            return false;
        }
        let is_comparable = self.counts == LinkCount::EveryFrame;
        let (window, looks) = self.window;
        let Some(since) = self.since else {
            let margin = UNDER_WAY_FRAMES * u64::from(channels.max(1));
            let is_leaking = is_comparable && !now.is_noise(&window, margin);
            if is_leaking || is_blind {
                let since = if is_leaking && !is_blind {
                    window
                } else {
                    latest
                };
                self.since = Some(since);
                self.window = (now, 0);
                self.counted.1 = now.unseen_since(&since);
            } else if looks + 1 >= WINDOW_LOOKS {
                self.window = (now, 0);
            } else {
                self.window.1 += 1;
            }
            return is_leaking;
        };
        self.counted.1 = self.counted.1.max(now.unseen_since(&since));
        let goes_on = is_comparable && !now.is_noise(&window, UNDER_WAY_FRAMES_MIN);
        if goes_on || is_blind {
            self.window = (now, 0);
        } else if looks + 1 >= CALM_LOOKS {
            self.end_period(now);
        } else {
            self.window.1 += 1;
        }
        goes_on
    }

    /// Frames that passed unseen, at least. It only grows.
    pub fn frames(&self) -> u64 {
        self.counted.0 + self.counted.1
    }

    fn end_period(&mut self, now: Reading) {
        self.since = None;
        self.window = (now, 0);
        self.counted = (self.frames(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(link: u64, program: u64) -> Reading {
        Reading {
            program_before: program,
            link,
            program_after: program,
        }
    }

    #[test]
    fn a_difference_is_reported_until_five_looks_in_a_row_did_not_find_it() {
        let mut differences = Differences::default();
        let found = || Some(Found::lasting("detached"));
        assert!(differences.present().is_empty());
        differences.note(Reason::Program, found());
        for look in 0..4 {
            differences.note(Reason::Program, None);
            assert_eq!(differences.present().len(), 1, "look {look}");
            assert!(!differences.present()[0].lasts, "look {look}");
        }
        differences.note(Reason::Program, found());
        for _ in 0..5 {
            assert_eq!(differences.present()[0].reason, Reason::Program);
            differences.note(Reason::Program, None);
        }
        assert!(differences.present().is_empty());
        assert_eq!(differences.begun()[Reason::Program as usize], 1);
    }

    #[test]
    fn frames_under_way_between_the_two_counts_are_no_finding() {
        let mut unseen = Unseen::since(LinkCount::EveryFrame, both(1_000, 5));
        let mut seen = 5;
        for look in 1..500 {
            seen += 100_000;
            // Of 4 channels, up to 64 frames each.
            let under_way = if look % 2 == 0 { 256 } else { 0 };
            assert!(!unseen.look(both(995 + seen - under_way, seen), 4, false));
        }
        assert_eq!(unseen.frames(), 0);
    }

    #[test]
    fn a_slow_leak_of_a_quiet_link_is_found_and_counted_whole_until_it_ends() {
        let mut unseen = Unseen::since(LinkCount::EveryFrame, both(0, 0));
        let (mut link, mut program) = (0, 0);
        let mut found = 0;
        for _ in 0..120 {
            (link, program) = (link + 10, program + 5);
            found += u32::from(unseen.look(both(link, program), 1, false));
        }
        assert!(found > 0);
        assert!(unseen.frames() > 500, "{}", unseen.frames());
        let counted = link - program;
        for _ in 0..20 {
            (link, program) = (link + 10, program + 10);
            unseen.look(both(link, program), 1, false);
        }
        assert!(unseen.frames() <= counted);
        let before = unseen.frames();
        unseen.look(both(link + 1, program), 1, false);
        assert_eq!(unseen.frames(), before);
    }

    #[test]
    fn while_the_program_is_not_attached_every_frame_counts_whatever_the_driver() {
        for counts in [
            LinkCount::EveryFrame,
            LinkCount::PassedFrames,
            LinkCount::Unknown,
        ] {
            let mut unseen = Unseen::since(counts, both(100, 0));
            unseen.look(both(100, 0), 1, false);
            unseen.look(both(107, 0), 1, true);
            assert_eq!(unseen.frames(), 7, "{counts:?}");
            for _ in 0..CALM_LOOKS {
                unseen.look(both(107, 0), 1, false);
            }
            unseen.look(both(110, 0), 1, true);
            assert_eq!(unseen.frames(), 10, "{counts:?}");
        }
    }

    #[test]
    fn a_link_that_counts_anew_or_is_read_late_is_no_finding() {
        let mut unseen = Unseen::since(LinkCount::EveryFrame, both(1_000_000, 0));
        assert!(!unseen.look(both(50, 10), 1, false));
        assert!(!unseen.look(both(60, 20), 1, false));
        // The thread lost its core between the link's count and the program's second one.
        let late = Reading {
            program_before: 30,
            link: 70,
            program_after: 500_000,
        };
        assert!(!unseen.look(late, 1, false));
        assert!(!unseen.look(both(500_040, 500_000), 1, false));
        assert_eq!(unseen.frames(), 0);
    }
}
