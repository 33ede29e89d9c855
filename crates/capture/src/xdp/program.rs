//! The XDP program in the kernel: loading it, its maps, and the link that attaches it.

use super::abi;
use super::bell::ProgramBell;
use super::config::Mode;
use super::link::{Link, Place};
use crate::error::{errno, in_one_line};
use crate::forbidden::{BPF, NET_ADMIN, forbidden};
use crate::interface::Interface;
use crate::sampling::{Sampling, SamplingMode};
use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError, PerCpuArray, RingBuf, XskMap};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The program, loaded and verified, with its maps.
pub(super) struct Program {
    loaded: Ebpf,
    entry: &'static str,
    sockets: Mutex<XskMap<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    /// Each counter as last read, for when it cannot be read.
    counted: [AtomicU64; abi::COUNTERS as usize],
    sampling: Mutex<Array<MapData, abi::Sampling>>,
    counts_no_socket: Mutex<Array<MapData, u32>>,
    rests: MapData,
    bells: Mutex<ArrayOfMaps<MapData, RingBuf<MapData>>>,
}

/// What became of the frames that the program saw.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Counter {
    /// Handed to a socket.
    Redirected = abi::COUNTER_REDIRECTED,
    /// Passed on to the host while the probe receives: their queue has no socket.
    NoSocket = abi::COUNTER_NO_SOCKET,
    /// Dropped by sampling.
    SampledOut = abi::COUNTER_SAMPLED_OUT,
}

impl Program {
    /// Loads the program for an interface with so many queues, or more later; with `frags` it takes
    /// frames of several buffers. It samples nothing out, and does not count frames without a
    /// socket.
    ///
    /// # Errors
    ///
    /// What failed and what to do, on one line.
    pub fn load(queue_count: u32, frags: bool) -> Result<Self, String> {
        let queue_count = queue_count.max(QUEUES_MIN);
        let mut loaded = EbpfLoader::new()
            .map_max_entries("sockets", queue_count)
            .map_max_entries("rests", queue_count)
            .map_max_entries("bells", queue_count)
            .load(&OBJECT.0)
            .map_err(|error| {
                forbidden("loading BPF maps", &error, &[BPF, NET_ADMIN])
                    .unwrap_or_else(|| format!("no BPF maps ({})", in_one_line(&error)))
            })?;
        let entry = if frags { ENTRY_FRAGS } else { ENTRY_LINEAR };
        let verified = xdp_program(&mut loaded, entry).load();
        verified.map_err(|error| match &error {
            // The verifier refuses a program by EACCES, and then has a log.
            ProgramError::LoadError { .. } if errno(&error) != Some(libc::EPERM) => {
                in_one_line(&error)
            }
            _ => forbidden("loading the XDP program", &error, &[BPF, NET_ADMIN])
                .unwrap_or_else(|| in_one_line(&error)),
        })?;
        let Some(Map::Array(rests)) = loaded.take_map("rests") else {
            unreachable!("redirect.bpf.c declares rests as an array")
        };
        Ok(Self {
            entry,
            sockets: Mutex::new(take_map(&mut loaded, "sockets")),
            counters: take_map(&mut loaded, "counters"),
            counted: Default::default(),
            sampling: Mutex::new(take_map(&mut loaded, SAMPLING)),
            counts_no_socket: Mutex::new(take_map(&mut loaded, COUNTS_NO_SOCKET)),
            rests,
            bells: Mutex::new(take_map(&mut loaded, "bells")),
            loaded,
        })
    }

    /// Attaches the program in the driver where mode and driver allow it, else after the driver
    /// where the mode allows that.
    ///
    /// # Errors
    ///
    /// What failed and what to do, on one line.
    pub fn attach(&self, interface: &Interface, mode: Mode) -> Result<Attached, String> {
        let places: &[Place] = match mode {
            Mode::Auto => &[Place::Driver, Place::Skb],
            Mode::ZeroCopy | Mode::Copy => &[Place::Driver],
            Mode::Skb => &[Place::Skb],
        };
        let mut reason = String::new();
        for &place in places {
            match self.attach_at(interface.index, place) {
                Ok(link) => return Ok(Attached { place, link }),
                Err(error) if is_busy(&error) => {
                    return Err(
                        "another XDP program is attached to it already, perhaps by another \
                         xdprobe: stop that program first (`ip link show` names it)"
                            .to_owned(),
                    );
                }
                Err(error) => {
                    let what = "attaching the XDP program";
                    if let Some(forbidden) = forbidden(what, &error, &[NET_ADMIN, BPF]) {
                        return Err(forbidden);
                    }
                    reason = match error.raw_os_error() {
                        Some(libc::EINVAL) => format!("{error}; Linux 5.9 or newer is needed"),
                        _ => error.to_string(),
                    };
                }
            }
        }
        let remedy = match mode {
            Mode::ZeroCopy | Mode::Copy => "the driver may have no XDP: try --mode skb",
            Mode::Auto | Mode::Skb => "try --capture pcap",
        };
        Err(format!(
            "the XDP program cannot be attached ({reason}): {remedy}"
        ))
    }

    /// Attaches the program once more where it was attached before.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn attach_at(&self, index: u32, place: Place) -> io::Result<Link> {
        let xdp: Option<&Xdp> = self
            .loaded
            .program(self.entry)
            .and_then(|program| program.try_into().ok());
        let program = xdp.expect("redirect.bpf.c has this XDP program").fd();
        let program = program.expect("the program was loaded");
        Link::attach(program.as_fd(), index, place)
    }

    /// Redirects the frames of a queue to a socket from now on.
    ///
    /// # Errors
    ///
    /// The system's error on one line.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        let set = locked(&self.sockets).set(queue, socket.as_raw_fd(), 0);
        set.map_err(|error| in_one_line(&error))
    }

    /// Puts the socket of a queue back into the map if another process took it out. Returns whether
    /// one did.
    ///
    /// # Errors
    ///
    /// The system's error on one line.
    pub fn restore_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<bool, String> {
        /// linux/bpf.h: only replaces what is there.
        const BPF_EXIST: u64 = 2;
        match locked(&self.sockets).set(queue, socket.as_raw_fd(), BPF_EXIST) {
            Ok(()) => return Ok(false),
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(in_one_line(&error)),
        }
        self.set_socket(queue, socket).map(|()| true)
    }

    /// Redirects no frame from now on.
    pub fn unset_sockets(&self) {
        let mut sockets = locked(&self.sockets);
        for queue in 0..sockets.len() {
            // Fails for queues without a socket, which need no change.
            let _ = sockets.unset(queue);
        }
    }

    /// Counts the frames of queues without a socket from now on, or counts them no more.
    ///
    /// # Errors
    ///
    /// The system's error on one line.
    pub fn set_counts_no_socket(&self, counts: bool) -> Result<(), String> {
        let set = locked(&self.counts_no_socket).set(0, u32::from(counts), 0);
        set.map_err(|error| in_one_line(&error))
    }

    /// Frames counted since the program was loaded, summed over CPUs.
    pub fn count(&self, counter: Counter) -> u64 {
        let index = counter as u32;
        let read = self
            .counters
            .get(&index, 0)
            .map_or(0, |cpus| cpus.iter().sum());
        let known = self.counted[index as usize].fetch_max(read, Ordering::Relaxed);
        known.max(read)
    }

    /// Samples with another setting from now on.
    ///
    /// # Errors
    ///
    /// The system's error on one line.
    pub fn set_sampling(&self, sampling: Sampling) -> Result<(), String> {
        let value = abi::Sampling {
            interval: u32::from(sampling.interval.get()),
            random: u32::from(sampling.mode == SamplingMode::Random),
        };
        let set = locked(&self.sampling).set(0, value, 0);
        set.map_err(|error| in_one_line(&error))
    }

    /// Creates the bell of a queue's reader.
    ///
    /// # Errors
    ///
    /// What failed, on one line.
    pub fn bell(&self, queue: u32) -> Result<ProgramBell, String> {
        let failed = |error: &MapError| format!("no bell for its reader: {}", in_one_line(error));
        let bell = ProgramBell::new(queue, &self.rests).map_err(|error| failed(&error))?;
        let set = locked(&self.bells).set(queue, bell.ringing(), 0);
        set.map_err(|error| failed(&error))?;
        Ok(bell)
    }
}

/// The program attached to an interface.
pub(super) struct Attached {
    /// Where it runs.
    pub place: Place,
    /// Detaches it when it is dropped.
    pub link: Link,
}

/// The maps have places for as many queues at least: for channels that are added later. A place
/// takes 8 octets.
const QUEUES_MIN: u32 = 1024;

/// Aligned as the ELF reader requires it.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o")));

/// The program for frames in one buffer, and the one for frames in several.
const ENTRY_LINEAR: &str = "redirect_linear";
const ENTRY_FRAGS: &str = "redirect_frags";
/// The maps that are the sections of the variables `sampling` and `counts_no_socket`.
const SAMPLING: &str = ".data.sampling";
const COUNTS_NO_SOCKET: &str = ".data.no_socket";

fn xdp_program<'a>(loaded: &'a mut Ebpf, entry: &str) -> &'a mut Xdp {
    loaded
        .program_mut(entry)
        .and_then(|program| program.try_into().ok())
        .expect("redirect.bpf.c has this XDP program")
}

fn take_map<M: TryFrom<Map, Error = MapError>>(loaded: &mut Ebpf, name: &str) -> M {
    let map = loaded.take_map(name).map(M::try_from);
    map.and_then(Result::ok)
        .expect("redirect.bpf.c declares this map with this type")
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// The maps' handles have no state that a panic could leave half changed.
fn locked<T>(handle: &Mutex<T>) -> MutexGuard<'_, T> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya_obj::generated::bpf_map_type as map_type;

    #[test]
    fn the_object_has_each_program_and_each_map_with_values_of_the_right_length() {
        let object = aya_obj::Object::parse(&OBJECT.0).unwrap();
        for entry in [ENTRY_LINEAR, ENTRY_FRAGS] {
            assert!(object.programs.contains_key(entry), "{entry}");
        }
        for (name, kind, value_octets) in [
            ("sockets", map_type::BPF_MAP_TYPE_XSKMAP, 4),
            ("counters", map_type::BPF_MAP_TYPE_PERCPU_ARRAY, 8),
            (
                SAMPLING,
                map_type::BPF_MAP_TYPE_ARRAY,
                size_of::<abi::Sampling>(),
            ),
            (COUNTS_NO_SOCKET, map_type::BPF_MAP_TYPE_ARRAY, 4),
            (
                "rests",
                map_type::BPF_MAP_TYPE_ARRAY,
                size_of::<abi::Rest>(),
            ),
            ("bells", map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS, 4),
        ] {
            let map = &object.maps[name];
            assert_eq!(map.map_type(), kind as u32, "{name}");
            assert_eq!(map.value_size() as usize, value_octets, "{name}");
        }
        assert_eq!(object.maps["counters"].max_entries(), abi::COUNTERS);
    }
}
