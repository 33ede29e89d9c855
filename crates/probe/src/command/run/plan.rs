//! What a command line means on this host: the plan of a run.

use super::arguments::{Arguments, CaptureKind, ModeName};
use super::export_options::live_engine;
use super::values::{Cores, Queues};
use crate::command::usage::UsageError;
use xdprobe_pipeline::capture::xdp::{Mode, XdpConfig};
use xdprobe_pipeline::capture::{Filter, Interface, Sampling};
use xdprobe_pipeline::export::netflow::v5::SamplingInterval;
use xdprobe_pipeline::export::netflow::{Engine, Version};
use xdprobe_pipeline::{CapturePlan, Plan, StartError, Tables};

/// Checks what the parser could not: options that depend on each other or on the host.
pub fn plan(arguments: Arguments) -> anyhow::Result<Plan> {
    let usage = |text: String| anyhow::Error::from(UsageError(text));
    arguments.check_complete()?;
    let faults = arguments.faults();
    if !faults.is_empty() {
        return Err(usage(faults.join("\n")));
    }
    let filter = arguments.filter()?;
    let timeouts = arguments.timeouts();
    let sampling = arguments.sampling.plan()?;
    let captures = match &arguments.read {
        Some(path) => vec![CapturePlan::File {
            path: path.clone(),
            filter,
            sampling: sampling.capture,
        }],
        None => {
            let plan =
                |name: &String| plan_interface(&arguments, name, filter.clone(), sampling.capture);
            let captures = arguments.interface.iter().map(plan);
            captures.collect::<anyhow::Result<_>>()?
        }
    };
    let files = arguments.tables.files();
    let inputs = [&files.rules, &files.prefixes].into_iter().flatten();
    let export = arguments.export.plan(
        sampling.header,
        inputs.cloned().collect(),
        default_engine(&captures),
    );
    if export.format.version != Version::V5 && sampling.header != SamplingInterval::default() {
        let version = export.format.version.number();
        tracing::warn!(
            "NetFlow {version} has no header field for sampling: set the sampling interval at the \
             collectors"
        );
    }
    let plan = Plan {
        captures,
        cores: arguments.cores.map(|Cores(cores)| cores),
        timeouts,
        flows_per_queue: arguments.flows_per_queue,
        shrink_to_fit: arguments.shrink_to_fit,
        input: arguments.input,
        tables: Tables::read(&files).map_err(|error| usage(error.to_string()))?,
        stop_timeout: arguments.stop_timeout,
        export,
    };
    plan.check().map_err(start_error)?;
    Ok(plan)
}

/// The engine unless --engine names one. That of a capture file is 0:0, so that the same file gives
/// the same octets on every host.
fn default_engine(captures: &[CapturePlan]) -> Engine {
    match captures {
        [
            CapturePlan::Xdp { interface, .. } | CapturePlan::Pcap { interface, .. },
            ..,
        ] => {
            let hostname = nix::unistd::gethostname().unwrap_or_default();
            live_engine(&hostname.to_string_lossy(), interface.index)
        }
        _ => Engine::default(),
    }
}

fn plan_interface(
    arguments: &Arguments,
    name: &str,
    filter: Option<Filter>,
    sampling: Sampling,
) -> anyhow::Result<CapturePlan> {
    let interface = Interface::look_up(name)?;
    let pcap = |filter| {
        let mut given = arguments.only_for_af_xdp().into_iter();
        if let Some((_, option)) = given.find(|(is_given, _)| *is_given) {
            tracing::warn!("{name}: {option} has no effect, since it is captured with libpcap");
        }
        Ok(CapturePlan::Pcap {
            interface: interface.clone(),
            filter,
            sampling,
        })
    };
    if arguments.capture == CaptureKind::Pcap {
        return pcap(filter);
    }
    if !interface.has_ethernet_frames() {
        if arguments.capture == CaptureKind::AfXdp {
            return Err(UsageError(format!(
                "AF_XDP needs an Ethernet interface, which {name} is not: use --capture pcap"
            ))
            .into());
        }
        return pcap(filter);
    }
    if let Some(reason) = interface.carries_host_traffic()
        && !arguments.consume
    {
        if arguments.capture == CaptureKind::AfXdp {
            return Err(UsageError(format!(
                "AF_XDP would take {name}'s frames away from the host, and {reason}: capture from \
                 a tap, use --capture pcap, or force it with --consume"
            ))
            .into());
        }
        tracing::info!(
            "{name}: {reason}, so xdprobe captures passively with libpcap; --consume forces AF_XDP"
        );
        return pcap(filter);
    }
    let dark = interface.goes_dark();
    if !dark.is_empty() {
        tracing::warn!(
            "{name}: --consume takes the host's frames; no longer reached through it: {}",
            dark.join(", ")
        );
    }
    let mode = match arguments.mode {
        ModeName::Auto => Mode::Auto,
        ModeName::ZeroCopy => Mode::ZeroCopy,
        ModeName::Copy => Mode::Copy,
        ModeName::Skb => Mode::Skb,
    };
    let config = XdpConfig {
        mode,
        ring_entries: arguments.ring,
        busy_poll: arguments.busy_poll,
        sampling,
        filter,
    };
    let queues = match &arguments.queues {
        Queues::All => (0..interface.queue_count).collect(),
        Queues::Some(queues) => queues.clone(),
    };
    Ok(CapturePlan::Xdp {
        interface,
        config,
        queues,
    })
}

/// An error at the start: one of usage, or another.
pub fn start_error(error: StartError) -> anyhow::Error {
    if error.is_usage() {
        UsageError(error.to_string()).into()
    } else {
        error.into()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    pub fn planned(line: &str) -> anyhow::Result<Plan> {
        plan(Line::try_parse_from(format!("run {line}").split_whitespace())?.arguments)
    }

    pub fn refused(line: &str, expected: &str) {
        let error = planned(line).err().unwrap().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }

    #[test]
    fn takes_the_line_that_fprobe_took() {
        let line = "run -i ngeth0 -f ip 172.27.20.3:2055";
        let arguments = Line::try_parse_from(line.split_whitespace())
            .unwrap()
            .arguments;
        assert_eq!(
            (arguments.interface, arguments.filter.as_deref()),
            (vec!["ngeth0".to_owned()], Some("ip"))
        );
        assert_eq!(
            arguments.export.collectors[0].to_string(),
            "172.27.20.3:2055"
        );
    }

    #[test]
    fn the_hosts_own_interface_is_captured_passively() {
        assert!(matches!(
            planned("-i lo 127.0.0.1:9").unwrap().captures[..],
            [CapturePlan::Pcap { .. }]
        ));
        refused("-i lo --capture af-xdp 127.0.0.1:9", "--consume");
        let consumed = planned("-i lo --consume 127.0.0.1:9").unwrap();
        assert!(matches!(consumed.captures[..], [CapturePlan::Xdp { .. }]));
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        refused("127.0.0.1:9", "--interface");
        refused("-i lo", "no COLLECTOR");
        refused("-i lo -r x.pcap 127.0.0.1:9", "cannot be used with");
        refused("-i ngeth77 127.0.0.1:9", "'ngeth77' does not exist");
        refused("-i lo -i lo 127.0.0.1:9", "'lo' is captured twice");
        refused(
            "-i lo -i lo --consume 127.0.0.1:9",
            "'lo' is captured twice",
        );
        refused("-i lo --cores 1024 127.0.0.1:9", "from 0 to 1023");
        refused(
            "-i lo --idle-timeout 2min 127.0.0.1:9",
            "idle timeout of 120 s is above the active timeout of 60 s",
        );
        refused(
            "-i lo --lifetime-spread 46s 127.0.0.1:9",
            "lifetime spread of 46 s is above the 45 s between",
        );
        refused(
            "-i lo --idle-timeout soon 127.0.0.1:9",
            "expected a number and a unit",
        );
        refused(
            "-i lo --queues 3-1 127.0.0.1:9",
            "expected numbers and ranges",
        );
        refused("-i lo --ring 1000 127.0.0.1:9", "power of two");
        refused(
            "-r x.pcap --queues 0 127.0.0.1:9",
            "--queues is for interfaces, not for -r",
        );
        refused("-i lo -f udprot 127.0.0.1:9", "filter 'udprot'");
    }
}
