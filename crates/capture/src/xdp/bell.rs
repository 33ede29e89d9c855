//! The bell: how the XDP program wakes a resting reader.

use super::abi::{BELL_OCTETS, Rest};
use aya::maps::{Array, Map, MapData, MapError, RingBuf};
use aya::sys::SyscallError;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd;
use std::time::Duration;

/// What the reader needs of the XDP program and the clock to sleep.
pub(super) trait Bell {
    /// Publishes a rest, or its end, to the XDP program; returns whether that worked.
    fn publish(&mut self, rest: Rest) -> bool;

    /// Sleeps until the bell rings, at most for `timeout`; returns whether it rang.
    fn wait(&mut self, timeout: Duration) -> bool;

    /// Discards all ringing so far.
    fn silence(&mut self);

    /// Sleeps for `time`, whatever arrives.
    fn nap(&mut self, time: Duration);

    /// CLOCK_MONOTONIC in ns.
    fn now_ns(&self) -> u64;
}

/// What a queue's reader shares with the program: its entry in the map `rests`, and the ring buffer
/// that the program writes to in order to wake it.
pub(super) struct ProgramBell {
    queue: u32,
    rests: Array<MapData, Rest>,
    ringing: RingBuf<MapData>,
}

impl ProgramBell {
    /// A bell for the reader of a queue, which is not in the program's map `bells` yet; `rests` is
    /// the program's map.
    pub fn new(queue: u32, rests: &MapData) -> Result<Self, MapError> {
        let shared = rests.fd().as_fd().try_clone_to_owned();
        let shared = MapData::from_fd(shared.map_err(|io_error| {
            MapError::SyscallError(SyscallError {
                call: "fcntl(F_DUPFD_CLOEXEC)",
                io_error,
            })
        })?)?;
        let ringing =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, BELL_OCTETS, 0);
        let ringing = MapData::create(ringing, "bell", None)?;
        Ok(Self {
            queue,
            rests: Array::try_from(Map::Array(shared))?,
            ringing: RingBuf::try_from(Map::RingBuf(ringing))?,
        })
    }

    /// The ring buffer, for the program's map `bells`.
    pub fn ringing(&self) -> &RingBuf<MapData> {
        &self.ringing
    }
}

impl Bell for ProgramBell {
    fn publish(&mut self, rest: Rest) -> bool {
        self.rests.set(self.queue, rest, 0).is_ok()
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let ringing = PollFd::new(self.ringing.as_fd(), PollFlags::POLLIN);
        poll(&mut [ringing], timeout) == Ok(1)
    }

    fn silence(&mut self) {
        while self.ringing.next().is_some() {}
    }

    fn nap(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn now_ns(&self) -> u64 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .expect("every Linux system has CLOCK_MONOTONIC");
        u64::try_from(Duration::from(now).as_nanos()).expect("the uptime is below 584 years")
    }
}
