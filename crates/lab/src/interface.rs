//! What an interface of the caller's network namespace says about itself, by the tools that every
//! host has.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The driver's own counters by name, as `ethtool -S` lists them.
///
/// On veth, `tx_queue_N_xdp_xmit` and `tx_queue_N_xdp_xmit_errors` count XDP frames that the
/// *other* end's queue N took and refused, `rx_queue_N_xdp_packets` frames that this end's XDP
/// program saw.
///
/// # Errors
///
/// When ethtool is not installed, the interface does not exist, or its driver counts nothing.
pub fn driver_counters(interface: &str) -> Result<BTreeMap<String, u64>> {
    let text = output(Command::new("ethtool").args(["-S", interface]))?;
    Ok(text.lines().filter_map(counter).collect())
}

/// Sum of the driver's counters whose names begin and end as given, over all queues.
#[must_use]
pub fn sum_of(counters: &BTreeMap<String, u64>, prefix: &str, suffix: &str) -> u64 {
    counters
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && name.ends_with(suffix))
        .map(|(_, count)| count)
        .sum()
}

/// Largest IP packet that the interface takes, in octets.
///
/// # Errors
///
/// When the interface does not exist.
pub fn mtu(interface: &str) -> Result<usize> {
    // Not from /sys, which shows the namespace that mounted it rather than the caller's.
    let text = output(Command::new("ip").args(["-json", "link", "show", "dev", interface]))?;
    let links: serde_json::Value =
        serde_json::from_str(&text).context("reading what `ip -json link` printed")?;
    let mtu = links[0]["mtu"]
        .as_u64()
        .with_context(|| format!("`ip -json link` gave no MTU of {interface}"))?;
    Ok(usize::try_from(mtu)?)
}

/// What `command` printed.
///
/// # Errors
///
/// When it does not start or does not succeed; the error holds what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}: is it installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn counter(line: &str) -> Option<(String, u64)> {
    let (name, count) = line.trim().rsplit_once(": ")?;
    Some((name.to_owned(), count.parse().ok()?))
}
