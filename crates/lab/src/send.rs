//! The traffic generator: an XDP program writes packets into live frames of BPF_PROG_TEST_RUN, from
//! one core and several times faster than any receiver under test.
//!
//! [`Options`] are what to send: a pattern or a capture file. A [`Sender`] sends on a thread of its
//! own. Its [`Report`] counts exactly what was handed to the interface's driver, to compare with
//! the counts of the receiver. Frames that the driver refuses because the peer's ring is full are
//! in the report too, and in the driver's own counters.
//!
//! The program keeps to the rate by dropping frames that are ahead of the schedule, so that the
//! core is busy at any rate. Start and end take about 25 ms, in which the kernel waits for grace
//! periods; the times in the report do not include them.
//!
//! Source: Linux, *Documentation/bpf/bpf_prog_run.rst*, "Running XDP programs in live frame mode".

mod options;
mod plan;
mod program;
mod replay;
mod report;
mod state;
mod traffic;

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::pthread::pthread_kill;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::frames::{ETHERNET_OCTETS, VLAN_OCTETS};
use crate::interface;
pub use options::{LENGTH_MAX, LENGTH_MIN, Mac, Options, Pattern, Protocol, Sizes};
use program::{Ended, Program};
pub use report::{Counts, DriverCounts, Report};
use state::{State, StateMap};
use traffic::Traffic;

/// Octets by which the kernel lets a frame exceed the MTU: an Ethernet header and one VLAN tag
/// (is_skb_forwardable).
const OVER_MTU_OCTETS: usize = ETHERNET_OCTETS + VLAN_OCTETS;
/// How often a waiting thread checks whether all packets are sent: a run with a rate ends at most
/// this late.
const CHECK_EVERY: Duration = Duration::from_millis(1);

/// A running generator, with a thread of its own in the network namespace of the thread that
/// started it.
pub struct Sender {
    state: StateMap,
    packets: u64,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<Result<Report>>>,
}

impl Sender {
    /// Loads the program and starts sending. Needs root.
    ///
    /// # Errors
    ///
    /// If the options contradict each other, the interface does not exist or does not accept frames
    /// of this length, or the kernel refuses the program.
    pub fn start(options: &Options) -> Result<Self> {
        install_wake_signal()?;
        let traffic = Traffic::new(options)?;
        check_fits(&options.interface, traffic.frame_octets_max())?;
        let packets = traffic.packets(options);
        let program = Program::load(options, &traffic, packets)?;
        let state = program.state();
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
    /// If the program's counters cannot be read.
    pub fn sent(&self) -> Result<u64> {
        Ok(State::read(&self.state)?.packets)
    }

    /// Stops sending; [`wait`](Self::wait) then returns at once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// A flag that stops sending when it is set, for signal handlers.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Waits until all packets are sent.
    ///
    /// # Errors
    ///
    /// If the kernel returned an error.
    ///
    /// # Panics
    ///
    /// If the sending thread has panicked.
    pub fn wait(mut self) -> Result<Report> {
        self.join().expect("the thread is joined once")
    }

    /// With a rate, the kernel's loop does not end by itself when all packets are sent. It ends at
    /// a signal, which is sent again and again, because a signal between two calls has no effect.
    fn join(&mut self) -> Option<Result<Report>> {
        let worker = self.worker.take()?;
        while !worker.is_finished() {
            if self.stop.load(Ordering::Relaxed)
                || self.sent().is_ok_and(|sent| sent >= self.packets)
            {
                // The thread may have ended, but is not joined: its id is still valid.
                let _ = pthread_kill(worker.as_pthread_t(), WAKE);
            }
            thread::sleep(CHECK_EVERY);
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

    /// Runs the program until all packets are sent. Without a rate every frame is sent, so that the
    /// kernel's loop ends by itself.
    fn send_all(&mut self) -> Result<State> {
        let frame = vec![0; self.traffic.frame_octets_max() as usize];
        loop {
            let before = self.program.counted()?;
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
            let after = self.program.counted()?;
            ensure!(
                ended == Ended::Signal || after.packets > before.packets,
                "the program sent none of {repeat} frames of {} octets on {}: an error in the \
                 generator",
                frame.len(),
                self.options.interface
            );
        }
    }

    fn report(&self, state: &State, driver: Option<DriverCounts>) -> Result<Report> {
        let stopped = state.packets < self.packets;
        // Without a rate, the program reads the clock at the first and the last packet only.
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

/// Refuses frames that are too long for the interface. The kernel would drop them before the driver
/// counts them.
fn check_fits(interface: &str, frame_octets_max: u32) -> Result<()> {
    let mtu = interface::mtu(interface)?;
    let octets = frame_octets_max as usize;
    ensure!(
        octets <= mtu + OVER_MTU_OCTETS,
        "frames of {octets} octets on {interface}, expected at most {} for its MTU of {mtu}: run \
         `ip link set {interface} mtu {}` for both ends",
        mtu + OVER_MTU_OCTETS,
        octets - OVER_MTU_OCTETS
    );
    Ok(())
}

/// The driver's counts of XDP frames; `None` if it has none.
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
        .with_context(|| format!("CPU {cpu}, expected a number below {}", CpuSet::count()))?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
        .with_context(|| format!("CPU {cpu}, expected one of this machine's"))
}

/// CLOCK_MONOTONIC, the clock that the program reads.
fn now_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.num_nanoseconds())?)
}

fn thread_cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?).as_secs_f64())
}

/// The signal that ends the kernel's loop. It needs a handler: an ignored signal interrupts
/// nothing.
const WAKE: Signal = Signal::SIGUSR1;

fn install_wake_signal() -> Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = *INSTALLED.get_or_init(|| {
        signal_hook::flag::register(WAKE as i32, Arc::new(AtomicBool::new(false))).is_ok()
    });
    ensure!(
        installed,
        "cannot install a handler for {WAKE}, the signal that ends a run with a rate"
    );
    Ok(())
}
