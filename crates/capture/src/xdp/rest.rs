//! How a queue's reader sleeps.
//!
//! A socket wakes its reader for every frame, which costs more than the frame. So while many frames
//! come the reader naps, and looks again; while few come it rests for longer. A rest is known to
//! the XDP program: it stamps each frame with its time, since nobody looks at the clock meanwhile,
//! and rings the reader's bell when so many have come that the ring could fill. So no ring
//! overflows because its reader slept, and no time is wrong by the length of a rest.

use super::in_one_line;
use crate::{BURST_MAX, CaptureTime, prefetch};
use aya::Pod;
use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError, RingBuf};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// While many frames come, the reader looks again after this long: at 60 Mpps the default ring
/// would not be full by then.
const NAP: Duration = Duration::from_micros(500);
/// So many frames in a nap are many: 128 000 a second.
const MANY: u64 = BURST_MAX as u64;
/// Octets of a bell: a page is the least. Each ringing takes 16.
const BELL_OCTETS: u32 = 4096;

/// The XDP program's side of all rests on one interface.
pub(super) struct Rests {
    told: MapData,
    bells: Mutex<ArrayOfMaps<MapData, RingBuf<MapData>>>,
}

impl Rests {
    /// From the program's maps `rests` and `bells`.
    pub(super) fn new(told: Map, bells: Map) -> Result<Self, String> {
        let Map::Array(told) = told else {
            return Err("its map 'rests' is no array".to_owned());
        };
        let bells = ArrayOfMaps::try_from(bells).map_err(|error| in_one_line(&error))?;
        Ok(Self {
            told,
            bells: Mutex::new(bells),
        })
    }

    /// How the reader of a queue sleeps whose ring has so many entries.
    pub(super) fn sleeper(&self, queue: u32, ring_entries: u32) -> Result<Sleeper, String> {
        let failed = |error: &MapError| format!("no way to be woken: {}", in_one_line(error));
        let told = self
            .told
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| error.to_string())?;
        let told = MapData::from_fd(told).and_then(|told| Array::try_from(Map::Array(told)));
        let bell = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, BELL_OCTETS, 0);
        let bell = MapData::create(bell, "bell", None)
            .and_then(|bell| RingBuf::try_from(Map::RingBuf(bell)));
        let (told, bell) = (
            told.map_err(|error| failed(&error))?,
            bell.map_err(|error| failed(&error))?,
        );
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.set(queue, &bell, 0).map_err(|error| failed(&error))?;
        Ok(Sleeper {
            queue,
            told,
            bell,
            frames_max: (ring_entries / 4).max(1),
            number: 0,
            slept: Slept::Napped,
            times: Times::OfTheTurn,
            stamps: Stamps::Unknown,
        })
    }
}

/// How one queue's reader sleeps, and when the frames came that it finds afterwards.
pub(super) struct Sleeper {
    queue: u32,
    told: Array<MapData, Rest>,
    bell: RingBuf<MapData>,
    /// Frames that a rest ends with.
    frames_max: u32,
    /// Which rest this is or was; stamps of earlier ones still stand in frames.
    number: u32,
    /// The last time.
    slept: Slept,
    times: Times,
    stamps: Stamps,
}

/// Whether the driver leaves room for stamps before its frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stamps {
    /// No frame has come in a rest yet.
    Unknown,
    /// It does.
    Seen,
    /// None was found where one should be. The reader then rests only until the next frame, and
    /// naps while any come, so that the turn's time is right for them.
    Missing,
}

/// What the XDP program is told: `struct rest` there.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rest {
    /// How many frames the reader still rests for; 0 while it is awake.
    frames: u32,
    number: u32,
}

// SAFETY: two integers without padding, of which any value is one.
unsafe impl Pod for Rest {}

/// What stands before a frame that came in a rest: `struct stamp` in the XDP program.
#[derive(Clone, Copy)]
#[repr(C)]
struct Stamp {
    monotonic_ns: u64,
    rest: u32,
    unused: u32,
}

/// What times the frames in the ring.
#[derive(Clone, Copy)]
enum Times {
    /// The turn: the reader was awake, or napped.
    OfTheTurn,
    /// The program, while the reader rested.
    OfTheRest {
        /// Since when, in ns of CLOCK_MONOTONIC.
        began_ns: u64,
        /// A frame with a stamp was found.
        stamped: bool,
    },
}

/// How a reader slept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Slept {
    /// For a moment.
    Napped,
    /// Until the bell rang, or not at all since frames were waiting.
    Rung,
    /// For all the time that it was given.
    Through,
}

impl Sleeper {
    /// Sleeps until frames may be waiting on `socket`, at most for `timeout`. `taken` frames were
    /// found since the last time.
    pub(super) fn sleep(&mut self, taken: u64, socket: BorrowedFd<'_>, timeout: Duration) -> Slept {
        let many = match self.slept {
            _ if self.stamps == Stamps::Missing => taken > 0,
            Slept::Napped => taken >= MANY,
            Slept::Rung => true,
            Slept::Through => false,
        };
        self.slept = if many {
            nap(timeout)
        } else {
            self.rest(socket, timeout)
        };
        self.slept
    }

    fn rest(&mut self, socket: BorrowedFd<'_>, timeout: Duration) -> Slept {
        let began = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.times = Times::OfTheRest {
            began_ns: u64::try_from(began.as_nanos()).unwrap_or(u64::MAX),
            stamped: false,
        };
        self.number = self.number.wrapping_add(1);
        let frames_max = if self.stamps == Stamps::Missing {
            1
        } else {
            self.frames_max
        };
        if self.tell(frames_max).is_err() {
            // Nobody would ring.
            return nap(timeout);
        }
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // No bell rings for what came before the program knew.
        let rung =
            is_readable(socket, PollTimeout::ZERO) || is_readable(self.bell.as_fd(), timeout);
        // If this fails the next rest tells it anew; until then the program stamps frames for
        // nobody.
        let _ = self.tell(0);
        while self.bell.next().is_some() {}
        if rung { Slept::Rung } else { Slept::Through }
    }

    fn tell(&mut self, frames: u32) -> Result<(), MapError> {
        self.told.set(
            self.queue,
            Rest {
                frames,
                number: self.number,
            },
            0,
        )
    }

    /// The ring was found empty: what comes from now on comes while the reader is awake.
    #[inline]
    pub(super) fn all_is_taken(&mut self) {
        self.times = Times::OfTheTurn;
    }

    /// Asks for what [`time_of`](Self::time_of) will read.
    #[inline(always)]
    pub(super) fn prefetch_time_of(&self, octets: &[u8]) {
        if matches!(self.times, Times::OfTheRest { .. }) {
            prefetch(stamp_of(octets));
        }
    }

    /// When the frame came that begins at `octets` in this queue's memory.
    #[inline]
    pub(super) fn time_of(&mut self, octets: &[u8]) -> CaptureTime {
        match self.times {
            Times::OfTheTurn => CaptureTime::OfTheTurn,
            Times::OfTheRest { began_ns, stamped } => self.time_in_rest(octets, began_ns, stamped),
        }
    }

    #[inline(never)]
    fn time_in_rest(&mut self, octets: &[u8], began_ns: u64, stamped: bool) -> CaptureTime {
        let stamp = stamp_of(octets);
        // SAFETY: the kernel leaves 256 octets (XDP_PACKET_HEADROOM) before a frame, in the same
        // UMEM; of these any value is one, and neither kernel nor card writes them before the frame
        // is given back.
        let stamp = unsafe { stamp.read_unaligned() };
        if stamp.rest == self.number && stamp.monotonic_ns > 0 {
            self.times = Times::OfTheRest {
                began_ns,
                stamped: true,
            };
            self.stamps = Stamps::Seen;
            return CaptureTime::Monotonic(stamp.monotonic_ns);
        }
        if self.stamps == Stamps::Unknown {
            self.stamps = Stamps::Missing;
        }
        // Before the first stamped frame come those that were on their way when the program was
        // told; behind the last, those that came when it was told again.
        if self.stamps == Stamps::Seen && !stamped {
            CaptureTime::Monotonic(began_ns)
        } else {
            CaptureTime::OfTheTurn
        }
    }
}

/// Where the stamp of a frame is, if it has one.
fn stamp_of(octets: &[u8]) -> *const Stamp {
    octets.as_ptr().wrapping_sub(size_of::<Stamp>()).cast()
}

fn nap(timeout: Duration) -> Slept {
    std::thread::sleep(NAP.min(timeout));
    Slept::Napped
}

fn is_readable(file: BorrowedFd<'_>, timeout: PollTimeout) -> bool {
    poll(&mut [PollFd::new(file, PollFlags::POLLIN)], timeout) == Ok(1)
}
