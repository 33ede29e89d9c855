//! The traffic generator: packets that an XDP program writes into live frames of BPF_PROG_TEST_RUN,
//! from one core, several times faster than anything that is tested with them takes them in.
//!
//! [`Options`] say what to send, a pattern or a capture file. A [`Sender`] sends on a thread of its
//! own, and its [`Report`] is the truth that others' counts are held against: what was handed to
//! the interface's driver, exactly. A frame that the driver then refuses (the far end's ring is
//! full) is in the report all the same, and in the driver's own counters.
//!
//! Pacing is done in the program, by dropping frames while they are ahead of the schedule: the core
//! is busy at any rate. Starting and ending takes some 25 ms, in which the kernel waits for itself;
//! the report's times do not include it.
//!
//! Source: Linux, *Documentation/bpf/bpf_prog_run.rst*, "Running XDP programs in live frame mode".

mod options;
mod plan;
mod replay;

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, DevMap, Map, MapData};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::pthread::pthread_kill;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

use crate::frames::{ETHERNET_OCTETS, VLAN_OCTETS};
use crate::interface;
pub use options::{LENGTH_MAX, LENGTH_MIN, Mac, Options, Pattern, Protocol, Sizes};
use plan::{PatternPlan, TICKS_A_SECOND};
use replay::{FRAME_WORDS, Replay};

/// The XDP program, compiled by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/send.bpf.o"));
/// Frames of one turn of the kernel's loop: its own default, and enough to make the driver's flush
/// cheap.
const BATCH: u32 = 64;
/// Octets of Ethernet and of one VLAN tag: what the kernel lets a frame be longer than the MTU
/// (is_skb_forwardable).
const OVER_MTU_OCTETS: usize = ETHERNET_OCTETS + VLAN_OCTETS;
/// How often a waiting thread looks whether all is sent: the most by which a paced run ends late.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What was sent: octets are counted from the IP header on unless they are said to be of frames.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Interface that was sent on.
    pub interface: String,
    /// Packets handed to the driver.
    pub packets: u64,
    /// What is in them.
    #[serde(flatten)]
    pub counts: Counts,
    /// From the first packet to the last, in seconds.
    pub seconds: f64,
    /// Packets a second.
    pub pps: f64,
    /// Time of a core that sending took, with the far end's work where the kernel does it on the
    /// same core, in seconds.
    pub cpu_seconds: f64,
    /// The same as a share of one core from the first packet to the last: near 1 at any rate, since
    /// pacing keeps the core busy.
    pub core_share: f64,
    /// What the driver made of the frames, where it tells (veth does). Others' frames sent
    /// meanwhile are among them.
    pub driver: Option<DriverCounts>,
    /// Whether it was stopped before all was sent.
    pub stopped: bool,
}

/// What is in the packets, from the IP header on where nothing else is said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// IP total lengths of the IPv4 packets: what a NetFlow v5 ledger has to come to.
    pub octets: u64,
    /// Octets of all frames, without frame check sequences.
    pub frame_octets: u64,
    /// IPv4 packets, fragments included.
    pub ipv4_packets: u64,
    /// IPv6 packets.
    pub ipv6_packets: u64,
    /// IPv6 packets' octets, header included.
    pub ipv6_octets: u64,
    /// IPv4 packets that are fragments, first ones included.
    pub fragments: u64,
    /// Distinct IPv4 flows (a datagram's later fragment counts with its first).
    pub flows: u64,
    /// Distinct IPv6 flows.
    pub ipv6_flows: u64,
}

/// What the driver made of the frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct DriverCounts {
    /// Frames that went into the far end's ring.
    pub accepted: u64,
    /// Frames that found the ring full and are lost.
    pub refused: u64,
}

/// A generator at work on a thread of its own, in the network namespace of the thread that started
/// it.
pub struct Sender {
    state: StateMap,
    packets: u64,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<Result<Report>>>,
}

impl std::ops::Deref for Report {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

impl Sender {
    /// Loads the program and starts sending. Needs to be root.
    ///
    /// # Errors
    ///
    /// When the options cannot be followed, the interface does not exist or does not take the
    /// frames' length, or the kernel refuses the program.
    pub fn start(options: &Options) -> Result<Self> {
        install_wake_signal()?;
        let traffic = Traffic::new(options)?;
        check_fits(&options.interface, traffic.frame_octets_max())?;
        let packets = traffic.packets(options);
        let program = load(options, &traffic, packets)?;
        let state = program.state.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            options: options.clone(),
            traffic,
            packets,
            program,
            stop: stop.clone(),
        };
        let worker = thread::Builder::new()
            .name("lab-send".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            state,
            packets,
            stop,
            worker: Some(worker),
        })
    }

    /// Packets handed to the driver so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not give the program's state out.
    pub fn sent(&self) -> Result<u64> {
        Ok(State::read(&self.state)?.packets)
    }

    /// Ends sending before all is sent; [`wait`](Self::wait) then returns at once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// A flag that ends sending when it is set, for signal handlers.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Waits until all is sent.
    ///
    /// # Errors
    ///
    /// When the kernel refused to go on.
    ///
    /// # Panics
    ///
    /// When the sending thread did.
    pub fn wait(mut self) -> Result<Report> {
        self.join()
            .unwrap_or_else(|| Err(anyhow!("the generator was waited for twice")))
    }

    /// The kernel's loop does not end by itself when all is sent at a rate, but it ends at a
    /// signal, so the sending thread gets one then: again and again, since one that comes between
    /// two calls has no effect.
    fn join(&mut self) -> Option<Result<Report>> {
        let worker = self.worker.take()?;
        while !worker.is_finished() {
            if self.stop.load(Ordering::Relaxed)
                || self.sent().is_ok_and(|sent| sent >= self.packets)
            {
                // The thread may have ended since; it is not joined yet, so its id is still its
                // own.
                let _ = pthread_kill(worker.as_pthread_t(), WAKE);
            }
            thread::sleep(LOOK_EVERY);
        }
        Some(
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

/// Where packets come from.
enum Traffic {
    Pattern(PatternPlan),
    Replay(Replay),
}

impl Traffic {
    fn new(options: &Options) -> Result<Self> {
        Ok(match &options.pcap {
            Some(path) => Self::Replay(Replay::read(path)?),
            None => Self::Pattern(PatternPlan::new(options)?),
        })
    }

    /// How many are to be sent.
    fn packets(&self, options: &Options) -> u64 {
        match self {
            Self::Pattern(_) => options.packets,
            Self::Replay(capture) => u64::from(capture.count) * u64::from(options.loops),
        }
    }

    /// Name of the XDP program.
    fn program(&self) -> &'static str {
        match self {
            Self::Pattern(_) => "send",
            Self::Replay(_) => "replay",
        }
    }

    fn frame_octets_max(&self) -> u32 {
        match self {
            Self::Pattern(plan) => plan.frame_octets_max,
            Self::Replay(capture) => capture.frame_octets_max,
        }
    }

    fn counts(&self, state: &State) -> Counts {
        match self {
            Self::Pattern(plan) => plan.counts(state),
            Self::Replay(capture) => capture.counts(state.packets),
        }
    }
}

/// What the sending thread owns.
struct Worker {
    options: Options,
    traffic: Traffic,
    packets: u64,
    program: Program,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) -> Result<Report> {
        if let Some(cpu) = self.options.cpu {
            pin(cpu)?;
        }
        let before = driver(&self.options.interface);
        let state = self.send_all()?;
        let after = driver(&self.options.interface);
        let driver = before.zip(after).map(|(before, after)| DriverCounts {
            accepted: after.accepted - before.accepted,
            refused: after.refused - before.refused,
        });
        self.report(&state, driver)
    }

    /// Runs the program until it has sent all. Flat out every frame is sent, so the kernel's loop
    /// ends by itself.
    fn send_all(&mut self) -> Result<State> {
        let frame = vec![0; self.traffic.frame_octets_max() as usize];
        loop {
            let before = State::read(&self.program.state)?;
            if before.packets >= self.packets || self.stop.load(Ordering::Relaxed) {
                return Ok(before);
            }
            let left = self.packets - before.packets;
            let repeat = if self.options.rate.is_none() {
                u32::try_from(left).unwrap_or(u32::MAX)
            } else {
                u32::MAX
            };
            let ended = self.program.run(&frame, repeat)?;
            let after = State::read(&self.program.state)?;
            ensure!(
                ended == Ended::Signal || after.packets > before.packets,
                "the program sent none of {repeat} frames of {} octets on {}; this is a fault of the generator",
                frame.len(),
                self.options.interface
            );
        }
    }

    fn report(&self, state: &State, driver: Option<DriverCounts>) -> Result<Report> {
        let stopped = state.packets < self.packets;
        // Flat out, the program reads the clock at the first packet and the last only.
        let last_ns = if stopped && self.options.rate.is_none() {
            now_ns()?
        } else {
            state.last_ns
        };
        let seconds = Duration::from_nanos(last_ns.saturating_sub(state.first_ns)).as_secs_f64();
        let cpu_seconds = thread_cpu_seconds()?;
        Ok(Report {
            interface: self.options.interface.clone(),
            packets: state.packets,
            counts: self.traffic.counts(state),
            seconds,
            pps: if seconds > 0.0 {
                state.packets as f64 / seconds
            } else {
                0.0
            },
            cpu_seconds,
            core_share: if seconds > 0.0 {
                cpu_seconds / seconds
            } else {
                0.0
            },
            driver,
            stopped,
        })
    }
}

/// The program's one map value, as integers in the order of `struct state` in send.bpf.c.
type StateMap = Arc<Array<MapData, [u64; 13]>>;

/// What the program counted.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    packets: u64,
    frame_octets: u64,
    ipv4_packets: u64,
    ipv4_octets: u64,
    ipv6_packets: u64,
    ipv6_octets: u64,
    fragments: u64,
    turns: u64,
    born: u64,
    first_ns: u64,
    last_ns: u64,
}

impl State {
    fn read(map: &StateMap) -> Result<Self> {
        let [
            packets,
            frame_octets,
            ipv4_packets,
            ipv4_octets,
            ipv6_packets,
            ipv6_octets,
            fragments,
            turns,
            born,
            _slot,
            _half,
            first_ns,
            last_ns,
        ] = map.get(&0, 0).context("reading the generator's counters")?;
        Ok(Self {
            packets,
            frame_octets,
            ipv4_packets,
            ipv4_octets,
            ipv6_packets,
            ipv6_octets,
            fragments,
            turns,
            born,
            first_ns,
            last_ns,
        })
    }
}

/// The loaded program.
struct Program {
    /// Which of the object's programs it is.
    name: &'static str,
    /// Holds the program, and the maps that nobody looks at again.
    ebpf: Ebpf,
    state: StateMap,
}

/// Why a call of the kernel's loop came back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    AllFrames,
    Signal,
}

impl Program {
    fn run(&mut self, frame: &[u8], repeat: u32) -> Result<Ended> {
        let program = xdp(&mut self.ebpf, self.name)?;
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        match program.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat,
            attrs,
            ..TestRunOptions::new()
        }) {
            Ok(_) => Ok(Ended::AllFrames),
            Err(error) if was_interrupted(&error) => Ok(Ended::Signal),
            Err(error) => Err(error).with_context(|| {
                format!(
                    "sending frames of {} octets by BPF_PROG_TEST_RUN (needs Linux 5.18 and root)",
                    frame.len()
                )
            }),
        }
    }
}

fn was_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::Interrupted)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("the object holds no program `{name}`"))?
        .try_into()?)
}

fn load(options: &Options, traffic: &Traffic, packets: u64) -> Result<Program> {
    let interval = options.rate.map_or(0, |rate| TICKS_A_SECOND / rate);
    // Half the interval: what is late is caught up at no more than twice the rate.
    let gap_ns = (interval >> 16) / 2;
    let frame_octets_max = traffic.frame_octets_max();
    let mut loader = EbpfLoader::new();
    loader.override_global("packets", &packets, true);
    loader.override_global("interval", &interval, true);
    loader.override_global("gap_ns", &gap_ns, true);
    loader.override_global("frame_octets_max", &frame_octets_max, true);
    let mut ebpf = match traffic {
        Traffic::Pattern(plan) => load_pattern(loader, plan)?,
        Traffic::Replay(capture) => load_capture(loader, capture)?,
    };
    let ifindex = if_nametoindex(options.interface.as_str()).with_context(|| {
        format!(
            "interface {:?}, wanted one of this network namespace",
            options.interface
        )
    })?;
    DevMap::try_from(map(&mut ebpf, "out")?)?.set(0, ifindex, None, 0)?;
    let state = Array::try_from(
        ebpf.take_map("state")
            .context("the object holds no map `state`")?,
    )?;
    let name = traffic.program();
    xdp(&mut ebpf, name)?
        .load()
        .context("loading the generator's XDP program (needs to be root)")?;
    Ok(Program {
        name,
        ebpf,
        state: Arc::new(state),
    })
}

fn load_pattern<'a>(mut loader: EbpfLoader<'a>, plan: &'a PatternPlan) -> Result<Ebpf> {
    let [ipv4_sum, ipv4_transport_sum, ipv6_transport_sum] = &plan.sums;
    for (name, value) in [
        ("pattern", &plan.pattern),
        ("flows", &plan.flows),
        ("step_mask", &plan.step_mask),
        ("seed", &plan.seed),
        ("ipv6_below", &plan.ipv6_below),
        ("l3", &plan.l3),
        ("transport", &plan.transport),
        ("ipv4_sum", ipv4_sum),
        ("ipv4_transport_sum", ipv4_transport_sum),
        ("ipv6_transport_sum", ipv6_transport_sum),
    ] {
        loader.override_global(name, value, true);
    }
    loader.override_global("birth_interval", &plan.birth_interval, true);
    loader.override_global("templates", plan.templates.as_slice(), true);
    let mut ebpf = loader
        .map_max_entries("steps", plan.step_mask + 1)
        .load(OBJECT)?;
    let mut steps = Array::<_, u64>::try_from(map(&mut ebpf, "steps")?)?;
    for (at, step) in (0..).zip(&plan.steps) {
        steps.set(at, step.to_bits(), 0)?;
    }
    Ok(ebpf)
}

fn load_capture<'a>(mut loader: EbpfLoader<'a>, capture: &'a Replay) -> Result<Ebpf> {
    let mut ebpf = loader
        .override_global("flows", &capture.count, true)
        .map_max_entries("frames", capture.count)
        .load(OBJECT)?;
    let mut frames = Array::<_, [u64; FRAME_WORDS]>::try_from(map(&mut ebpf, "frames")?)?;
    for (at, frame) in (0..).zip(capture.frames()) {
        frames.set(at, frame.to_words(), 0)?;
    }
    Ok(ebpf)
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("the object holds no map `{name}`"))
}

/// Frames longer than the interface takes would vanish without a trace: the kernel drops them
/// before the driver counts.
fn check_fits(interface: &str, frame_octets_max: u32) -> Result<()> {
    let mtu = interface::mtu(interface)?;
    let octets = frame_octets_max as usize;
    ensure!(
        octets <= mtu + OVER_MTU_OCTETS,
        "frames of {octets} octets on {interface}, wanted at most {} for its MTU of {mtu}: `ip link set {interface} mtu {}`, \
         at both ends",
        mtu + OVER_MTU_OCTETS,
        octets - OVER_MTU_OCTETS
    );
    Ok(())
}

/// The driver's counts of XDP frames, where it has any.
fn driver(interface: &str) -> Option<DriverCounts> {
    let counters = interface::driver_counters(interface).ok()?;
    counters
        .keys()
        .any(|name| name.ends_with("_xdp_xmit"))
        .then(|| DriverCounts {
            accepted: interface::sum_of(&counters, "tx_queue_", "_xdp_xmit"),
            refused: interface::sum_of(&counters, "tx_queue_", "_xdp_xmit_errors"),
        })
}

fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)
        .with_context(|| format!("CPU {cpu}, wanted a number below {}", CpuSet::count()))?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
        .with_context(|| format!("CPU {cpu}, wanted one that this machine has"))
}

/// CLOCK_MONOTONIC, which is also the clock that the program reads.
fn now_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.num_nanoseconds())?)
}

fn thread_cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?).as_secs_f64())
}

/// What ends the kernel's loop early. It needs a handler, since a signal that is ignored interrupts
/// nothing.
const WAKE: Signal = Signal::SIGUSR1;

fn install_wake_signal() -> Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = *INSTALLED.get_or_init(|| {
        signal_hook::flag::register(WAKE as i32, Arc::new(AtomicBool::new(false))).is_ok()
    });
    ensure!(
        installed,
        "no handler for {WAKE} could be installed, which ends a paced run"
    );
    Ok(())
}
