//! The XDP program: loaded for a pattern or a capture file, and run in the kernel's loop.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use aya::maps::{Array, DevMap, Map};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions};
use nix::net::if_::if_nametoindex;

use super::options::Options;
use super::plan::{PatternPlan, TICKS_A_SECOND};
use super::replay::{FRAME_WORDS, Replay};
use super::state::{State, StateMap};
use super::traffic::Traffic;

/// The XDP program, compiled by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/send.bpf.o"));
/// Frames in one batch of the kernel's loop: the kernel's default, and enough to make the driver's
/// flush cheap.
const BATCH: u32 = 64;

/// The loaded program.
pub struct Program {
    /// Name in the object file.
    name: &'static str,
    /// The programs and the maps; dropping it unloads them.
    ebpf: Ebpf,
    state: StateMap,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    AllFrames,
    Signal,
}

impl Program {
    /// Loads the program that sends `packets` packets of `traffic`.
    ///
    /// # Errors
    ///
    /// If the interface does not exist or the kernel refuses the program.
    pub fn load(options: &Options, traffic: &Traffic, packets: u64) -> Result<Self> {
        let interval = options.rate.map_or(0, |rate| TICKS_A_SECOND / rate);
        // Half the interval: late packets are sent at no more than twice the rate.
        let gap_ns = (interval >> 16) / 2;
        let frame_octets_max = traffic.frame_octets_max();
        let mut loader = EbpfLoader::new();
        loader.override_global("packets", &packets, true);
        loader.override_global("interval", &interval, true);
        loader.override_global("gap_ns", &gap_ns, true);
        loader.override_global("frame_octets_max", &frame_octets_max, true);
        let mut ebpf = match traffic {
            Traffic::Pattern(plan) => load_pattern(loader, plan)?,
            Traffic::Replay(replay) => load_replay(loader, replay)?,
        };
        let ifindex = if_nametoindex(options.interface.as_str()).with_context(|| {
            format!(
                "interface {:?}, expected one of this network namespace",
                options.interface
            )
        })?;
        DevMap::try_from(map(&mut ebpf, "out")?)?.set(0, ifindex, None, 0)?;
        let state = Array::try_from(
            ebpf.take_map("state")
                .context("the object file has no map `state`")?,
        )?;
        let name = traffic.program();
        xdp(&mut ebpf, name)?
            .load()
            .context("loading the generator's XDP program (needs root)")?;
        Ok(Self {
            name,
            ebpf,
            state: Arc::new(state),
        })
    }

    /// The map of the counters.
    pub fn state(&self) -> StateMap {
        self.state.clone()
    }

    /// The counters now.
    pub fn counted(&self) -> Result<State> {
        State::read(&self.state)
    }

    /// Runs the program on `repeat` frames, or until a signal arrives.
    pub fn run(&mut self, frame: &[u8], repeat: u32) -> Result<Ended> {
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
    match error {
        ProgramError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::Interrupted,
        _ => false,
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("the object file has no program `{name}`"))?
        .try_into()?)
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

fn load_replay<'a>(mut loader: EbpfLoader<'a>, replay: &'a Replay) -> Result<Ebpf> {
    let mut ebpf = loader
        .override_global("flows", &replay.count, true)
        .map_max_entries("frames", replay.count)
        .load(OBJECT)?;
    let mut frames = Array::<_, [u64; FRAME_WORDS]>::try_from(map(&mut ebpf, "frames")?)?;
    for (at, frame) in (0..).zip(replay.frames()) {
        frames.set(at, frame.to_words(), 0)?;
    }
    Ok(ebpf)
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("the object file has no map `{name}`"))
}
