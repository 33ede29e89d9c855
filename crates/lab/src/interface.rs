//! Counters and MTU of an interface in the caller's network namespace, read with `ethtool` and
//! `ip`.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The driver's own counters by name, as `ethtool -S` lists them.
///
/// On veth, `tx_queue_N_xdp_xmit` and `tx_queue_N_xdp_xmit_errors` count XDP frames that the
/// *peer's* queue N accepted and refused, `rx_queue_N_xdp_packets` frames that this end's XDP
/// program received.
///
/// # Errors
///
/// If ethtool is not installed, the interface does not exist, or its driver has no counters.
pub fn driver_counters(interface: &str) -> Result<BTreeMap<String, u64>> {
    let text = output(Command::new("ethtool").args(["-S", interface]))?;
    Ok(text.lines().filter_map(counter).collect())
}

/// Sum of the counters whose names begin with `prefix` and end with `suffix`, over all queues.
#[must_use]
pub fn sum_of(counters: &BTreeMap<String, u64>, prefix: &str, suffix: &str) -> u64 {
    counters
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && name.ends_with(suffix))
        .map(|(_, count)| count)
        .sum()
}

/// The interface's MTU in octets.
///
/// # Errors
///
/// If the interface does not exist.
pub fn mtu(interface: &str) -> Result<usize> {
    // Not from /sys, which shows the namespace in which it was mounted.
    let text = output(Command::new("ip").args(["-json", "link", "show", "dev", interface]))?;
    let links: serde_json::Value =
        serde_json::from_str(&text).context("parsing the output of `ip -json link`")?;
    let mtu = links[0]["mtu"]
        .as_u64()
        .with_context(|| format!("`ip -json link` gave no MTU of {interface}"))?;
    Ok(usize::try_from(mtu)?)
}

/// Runs `command` and returns its standard output.
///
/// # Errors
///
/// If the command does not start or fails; the error contains its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}: is it installed?"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            errors.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn counter(line: &str) -> Option<(String, u64)> {
    let (name, count) = line.trim().rsplit_once(": ")?;
    Some((name.to_owned(), count.parse().ok()?))
}
