//! What a run takes of the machine's memory, compared with what the system leaves before anything
//! is made.
//!
//! A kernel that runs out of memory kills without a word. What a probe takes is known from its
//! plan: nearly all of it is allocated at the start. So a plan that does not fit is refused, or
//! made smaller where it says so.

mod room;

use crate::error::StartError;
use crate::hand_over::BATCHES_OCTETS;
use crate::plan::{CapturePlan, Destination, Plan};
use room::{Limit, Room, System};
use std::fmt;
use std::num::NonZero;
use std::path::Path;
use xdprobe_capture::xdp::QueueMemory;
use xdprobe_capture::{CaptureFile, LiveCapture};
use xdprobe_flow::{FlowCache, KeyV4};

/// What a plan takes, in octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Need {
    /// The flow caches of all workers.
    caches: u64,
    /// What holds frames: UMEM and rings, libpcap's buffers, pieces of a file.
    frames: u64,
    /// Of these, libpcap's buffers: the kernel charges them to no control group.
    uncharged: u64,
    /// Records under way, and the program itself.
    rest: u64,
    /// Address space beyond that: stacks, and what the allocator reserves for each thread.
    reserved: u64,
}

/// Octets in the units of people.
struct Mib(u64);

/// The program, its stacks, BPF programs and maps, and the kernel's share: a few MiB were measured,
/// and the rest is a margin.
const PROGRAM_OCTETS: u64 = 16 * MIB;
/// Threads beside the workers: exporter, control and the like.
const OTHER_THREADS: usize = 8;
/// A stack of Rust's standard library.
const STACK_OCTETS: u64 = 2 * MIB;
/// Address space that glibc reserves for the allocations of a thread, and for how many threads of
/// each core (malloc/arena.c, HEAP_MAX_SIZE and NARENAS_FROM_NCORES).
const ARENA_OCTETS: u64 = 64 * MIB;
const ARENAS_PER_CORE: usize = 8;
/// A plan is not made smaller than this.
const FLOWS_MIN: usize = 10_000;
const RING_MIN: u32 = 1_024;
const MIB: u64 = 1 << 20;

/// Compares what `plan` takes with what the system leaves, and logs both in one line. A plan that
/// does not fit is made smaller where it says so.
///
/// The memory of a capture file's run is allocated as flows come, so a plan that may grow beyond
/// what is left has a warning only.
///
/// # Errors
///
/// [`StartError::MemoryShort`] if it does not fit.
pub fn fit(plan: &mut Plan) -> Result<(), StartError> {
    fit_into(plan, &System(Path::new("/")))
}

/// Checks that the limits of this process leave so many octets: an allocation that fails later ends
/// the program without a word of its own.
///
/// # Errors
///
/// [`StartError::ProcessLimit`] if one of them leaves less.
pub fn require(octets: u64) -> Result<(), StartError> {
    require_of(octets, &System(Path::new("/")))
}

fn require_of(octets: u64, system: &System<'_>) -> Result<(), StartError> {
    let limits = system
        .rooms()
        .into_iter()
        .filter(|room| room.limit.is_of_process());
    limits.into_iter().try_for_each(|room| {
        if room.left >= octets {
            return Ok(());
        }
        Err(StartError::ProcessLimit {
            need: Mib(octets).to_string(),
            room: room.to_string(),
        })
    })
}

fn fit_into(plan: &mut Plan, system: &System<'_>) -> Result<(), StartError> {
    let (is_live, rooms, huge_pages) =
        (plan.regime().is_live(), system.rooms(), system.huge_pages());
    let too_small = |need: &Need| {
        rooms
            .iter()
            .find(|room| room.left < need.of_room(room, huge_pages))
    };
    let need = if plan.shrink_to_fit {
        shrink(plan, |need| too_small(need).is_none())
    } else {
        Need::of(plan)
    };
    match too_small(&need) {
        Some(room) if is_live || room.limit.is_of_process() => {
            return Err(StartError::MemoryShort {
                need: need.in_words(room),
                room: room.to_string(),
                options: options_of(plan).join(", "),
            });
        }
        Some(room) => tracing::warn!(
            "flows of the file may take {}, and {room}: lower --flows-per-queue, or the kernel may \
             end the program",
            Mib(need.caches)
        ),
        None => {}
    }
    if is_live {
        let rooms: Vec<_> = rooms.iter().map(ToString::to_string).collect();
        tracing::info!("memory: {need}; {}", rooms.join("; "));
    }
    Ok(())
}

/// The options that decide how much memory a plan takes.
fn options_of(plan: &Plan) -> Vec<&'static str> {
    let mut options = vec!["--flows-per-queue"];
    let is_xdp = |capture: &CapturePlan| matches!(capture, CapturePlan::Xdp { .. });
    if plan.captures.iter().any(is_xdp) {
        options.extend(["--ring", "the number of --queues"]);
    }
    if plan.export.datagrams.pace.is_limited() {
        options.push("--paced-records");
    }
    options
}

/// Halves the larger of caches and rings until the plan fits, or cannot become smaller.
fn shrink(plan: &mut Plan, fits: impl Fn(&Need) -> bool) -> Need {
    let before = Need::of(plan);
    let mut need = before;
    while !fits(&need) {
        let flows = plan.flows_per_queue;
        let has_fewer_flows = flows > FLOWS_MIN;
        let shrunk = if has_fewer_flows && (need.caches >= need.frames || !halve_rings(plan)) {
            plan.flows_per_queue = (flows / 2).max(FLOWS_MIN);
            true
        } else {
            has_fewer_flows || halve_rings(plan)
        };
        if !shrunk {
            break;
        }
        need = Need::of(plan);
    }
    if need != before {
        let ring = plan.captures.iter().find_map(|capture| match capture {
            CapturePlan::Xdp { config, .. } => Some(config.ring_entries),
            CapturePlan::Pcap { .. } | CapturePlan::File { .. } => None,
        });
        let ring = ring.map_or_else(String::new, |ring| format!(" --ring {ring}"));
        tracing::warn!(
            "--shrink-to-fit: goes on with --flows-per-queue {}{ring}",
            plan.flows_per_queue
        );
    }
    need
}

/// Halves every ring that is not the smallest; returns whether there was one.
fn halve_rings(plan: &mut Plan) -> bool {
    let mut halved = false;
    for capture in &mut plan.captures {
        if let CapturePlan::Xdp { config, .. } = capture
            && config.ring_entries > RING_MIN
        {
            config.ring_entries /= 2;
            halved = true;
        }
    }
    halved
}

impl Need {
    fn of(plan: &Plan) -> Self {
        let workers = plan.worker_count() as u64;
        let frames = plan.captures.iter().map(|capture| match capture {
            CapturePlan::Xdp {
                interface,
                config,
                queues,
            } => QueueMemory::octets_for(interface, config).saturating_mul(queues.len() as u64),
            CapturePlan::Pcap { .. } => LiveCapture::BUFFER_OCTETS,
            CapturePlan::File { .. } => CaptureFile::BUFFER_OCTETS,
        });
        let frames = frames.fold(0, u64::saturating_add);
        let is_pcap = |capture: &&CapturePlan| matches!(capture, CapturePlan::Pcap { .. });
        let pcaps = plan.captures.iter().filter(is_pcap).count() as u64;
        let export = &plan.export;
        let waiting = export.destinations.iter().map(|to| match to {
            Destination::Collector(_) => export.datagrams.octets_for(&export.format),
            Destination::File(_) => 0,
        });
        let threads = plan.worker_count().saturating_add(OTHER_THREADS);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let arenas = threads.min(ARENAS_PER_CORE.saturating_mul(cores));
        Self {
            caches: FlowCache::<KeyV4>::octets_for(plan.flows_per_queue).saturating_mul(workers),
            frames,
            uncharged: LiveCapture::BUFFER_OCTETS.saturating_mul(pcaps),
            rest: waiting
                .fold(BATCHES_OCTETS.saturating_mul(workers), u64::saturating_add)
                .saturating_add(PROGRAM_OCTETS),
            reserved: (threads as u64)
                .saturating_mul(STACK_OCTETS)
                .saturating_add(ARENA_OCTETS.saturating_mul(arenas as u64)),
        }
    }

    fn total(&self) -> u64 {
        self.caches
            .saturating_add(self.frames)
            .saturating_add(self.rest)
    }

    /// What is taken of a room; caches and frames can be on so many octets of reserved huge pages.
    fn of_room(&self, room: &Room, huge_pages: u64) -> u64 {
        let charged = self.frames - self.uncharged;
        let on_huge_pages = self.caches.saturating_add(charged).min(huge_pages);
        let total = self.total() - on_huge_pages;
        match room.limit {
            Limit::Host => total,
            Limit::Group(..) => total.saturating_sub(self.uncharged),
            Limit::Process(..) => self.total().saturating_add(self.reserved),
        }
    }

    /// [`of_room`](Self::of_room) in words.
    fn in_words(&self, room: &Room) -> String {
        if room.limit.is_of_process() {
            let reserved = Mib(self.reserved);
            return format!("{self} and {reserved} of address space for threads");
        }
        self.to_string()
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "takes {} (flow caches {}, frames {}, the rest {})",
            Mib(self.total()),
            Mib(self.caches),
            Mib(self.frames),
            Mib(self.rest)
        )
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = Mib(self.left);
        match &self.limit {
            Limit::Host => write!(f, "the host has {left} available"),
            Limit::Group(group, limit) => write!(
                f,
                "control group {} has {left} left of its limit of {}",
                group.display(),
                Mib(*limit)
            ),
            Limit::Process(option, limit) => write!(
                f,
                "the limit of the process ({option}) has {left} left of {}",
                Mib(*limit)
            ),
        }
    }
}

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(MIB))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ExportPlan;
    use crate::tables::Tables;
    use std::fs;
    use std::time::Duration;
    use xdprobe_capture::xdp::{Mode, XdpConfig};
    use xdprobe_capture::{Interface, Sampling};
    use xdprobe_export::{DatagramConfig, Distribution, FixedFormat, SocketOptions};
    use xdprobe_flow::Timeouts;

    /// A host with so many MiB available, and an address space of so many.
    fn system(available: u64, space: Option<u64>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc");
        fs::create_dir_all(proc.join("self")).unwrap();
        let meminfo = format!("MemAvailable: {} kB\n", available << 10);
        fs::write(proc.join("meminfo"), meminfo).unwrap();
        if let Some(space) = space {
            let limits = format!("Max address space  {}  unlimited  bytes\n", space << 20);
            fs::write(proc.join("self/limits"), limits).unwrap();
            fs::write(proc.join("self/status"), "VmSize: 0 kB\n").unwrap();
        }
        root
    }

    fn plan(capture: CapturePlan) -> Plan {
        Plan {
            stop_timeout: Duration::from_secs(60),
            captures: vec![capture],
            cores: None,
            timeouts: Timeouts::default(),
            flows_per_queue: 1_000_000,
            shrink_to_fit: false,
            export: ExportPlan {
                distribution: Distribution::Copy,
                format: FixedFormat::default(),
                datagrams: DatagramConfig::default(),
                sockets: SocketOptions::default(),
                resolve_interval: Duration::from_secs(60),
                destinations: vec!["192.0.2.9:2055".parse().unwrap()],
                overwrite: false,
                inputs: Vec::new(),
            },
            input: None,
            tables: Tables::default(),
        }
    }

    fn live_plan() -> Plan {
        plan(CapturePlan::Xdp {
            interface: Interface::look_up("lo").unwrap(),
            config: XdpConfig {
                mode: Mode::Auto,
                ring_entries: XdpConfig::RING_ENTRIES,
                busy_poll: false,
                sampling: Sampling::NONE,
                filter: None,
            },
            queues: vec![0, 1],
        })
    }

    fn file_plan() -> Plan {
        plan(CapturePlan::File {
            path: "x.pcap".into(),
            filter: None,
            sampling: Sampling::NONE,
        })
    }

    fn fitted(plan: &mut Plan, available: u64, space: Option<u64>) -> Result<(), String> {
        let root = system(available, space);
        fit_into(plan, &System(root.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_probe_that_does_not_fit_is_refused_with_both_numbers_and_the_remedy() {
        let need = Need::of(&live_plan());
        assert_eq!(
            fitted(&mut live_plan(), need.total() / MIB + 1, None),
            Ok(())
        );
        let error = fitted(&mut live_plan(), need.total() / MIB - 1, None).unwrap_err();
        let numbers = format!("takes {}", Mib(need.total()));
        for part in [
            numbers.as_str(),
            "the host has",
            "--flows-per-queue",
            "--shrink-to-fit",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_probe_that_may_shrink_becomes_as_small_as_fits_and_no_smaller() {
        let mut plan = live_plan();
        plan.shrink_to_fit = true;
        fitted(&mut plan, 300, None).unwrap();
        let [CapturePlan::Xdp { config, .. }] = &plan.captures[..] else {
            unreachable!("it is as it was planned");
        };
        assert!(
            config.ring_entries < XdpConfig::RING_ENTRIES && config.ring_entries.is_power_of_two()
        );
        let total = Need::of(&plan).total() / MIB;
        assert!((130..300).contains(&total), "{total}");
        let error = fitted(&mut plan, 10, None).unwrap_err();
        assert!(error.contains("10 MiB"), "{error}");
        assert_eq!(plan.flows_per_queue, FLOWS_MIN);
        assert!(error.contains("--ring, the number of --queues,"), "{error}");
    }

    #[test]
    fn a_file_that_may_take_more_than_is_left_is_read_unless_there_is_no_address_space() {
        assert_eq!(fitted(&mut file_plan(), 10, None), Ok(()));
        let error = fitted(&mut file_plan(), 1 << 20, Some(20)).unwrap_err();
        assert!(
            error.contains("ulimit -v") && error.contains("20 MiB"),
            "{error}"
        );
    }

    #[test]
    fn a_limit_of_the_process_that_leaves_too_little_for_any_command_is_named() {
        let root = system(1 << 20, Some(20));
        let required = |mib: u64| require_of(mib * MIB, &System(root.path()));
        assert!(required(20).is_ok());
        let error = required(21).unwrap_err().to_string();
        let expected = "the program takes 21 MiB, but the limit of the process (ulimit -v) has 20";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_no_address_space_has_is_refused() {
        let mut plan = live_plan();
        plan.flows_per_queue = usize::MAX / 2;
        assert!(fitted(&mut plan, 1 << 20, None).is_err());
    }
}
