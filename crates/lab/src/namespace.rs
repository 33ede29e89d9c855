//! Network namespaces for tests, and veth pairs in them.
//!
//! A [`Namespace`] is deleted with everything in it when it is dropped, also by a panic. Its name
//! contains the process id and a number, so that tests can run at the same time. The first
//! namespace of a process deletes the namespaces of processes that have ended. Needs root and the
//! programs `ip` and `ethtool`.

use std::fs::{self, File};
use std::io::{Write, stderr};
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::interface::output;

/// Prefix of the names of namespaces that are made here; the process id follows.
const PREFIX: &str = "xdplab-";
/// Directory where `ip netns` has a file for each namespace.
const DIRECTORY: &str = "/run/netns";

/// A network namespace with its loopback up and IPv6 off, so that the only traffic in it is the
/// test's.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Options of a veth pair; the same for both ends.
#[derive(Clone, Copy, Debug)]
pub struct VethOptions {
    /// Receive and send queues of each end.
    pub queues: u32,
    /// MTU in octets.
    pub mtu: u32,
}

impl Default for VethOptions {
    /// One queue, 1500 octets.
    fn default() -> Self {
        Self {
            queues: 1,
            mtu: 1500,
        }
    }
}

impl Namespace {
    /// A new namespace.
    ///
    /// # Errors
    ///
    /// If it cannot be made: the process is not root, or `ip` is not installed.
    pub fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(delete_those_of_dead_processes);
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        );
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        // Otherwise the kernel sends router solicitations and other packets when a link comes up.
        namespace.run(|| {
            for interfaces in ["all", "default"] {
                let key = format!("/proc/sys/net/ipv6/conf/{interfaces}/disable_ipv6");
                if Path::new(&key).exists() {
                    fs::write(&key, "1").with_context(|| format!("writing 1 to {key}"))?;
                }
            }
            Ok::<(), anyhow::Error>(())
        })??;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name, as in `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs `program` in the namespace. Its process id is the program's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a program in the namespace and returns its standard output.
    ///
    /// # Errors
    ///
    /// If the program does not start or fails; the error contains its standard error.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.command(program).args(arguments))
    }

    /// Runs `ip ARGUMENTS` in the namespace and returns its standard output.
    ///
    /// # Errors
    ///
    /// If `ip` fails; the error contains its standard error.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        output(
            Command::new("ip")
                .args(["-netns", &self.name])
                .args(arguments),
        )
    }

    /// Runs `work` on a thread in the namespace, and returns its result. Sockets, threads and
    /// processes that `work` opens or starts stay in the namespace. The thread's capabilities and
    /// files are the caller's.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// If `work` panics, with the same panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new(DIRECTORY).join(&self.name);
        let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        thread::scope(|scope| {
            let inside = move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            };
            let thread = thread::Builder::new()
                .name("lab-namespace".to_owned())
                .spawn_scoped(scope, inside)?;
            let entered: nix::Result<T> = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            entered
                .map_err(|error| anyhow!("entering namespace {}: {error} (needs root)", self.name))
        })
    }

    /// Makes a veth pair in this namespace and sets both ends up, ready for XDP frames in either
    /// direction: generic receive offload is on, offloads that would change or delay frames are
    /// off.
    ///
    /// # Errors
    ///
    /// If `ip` or `ethtool` fails; the error contains its standard error.
    pub fn veth(&self, one: &str, other: &str, options: VethOptions) -> Result<()> {
        let queues = options.queues.to_string();
        let mtu = options.mtu.to_string();
        let end = ["mtu", &mtu, "numrxqueues", &queues, "numtxqueues", &queues];
        let link = [
            &["link", "add", "name", one],
            &end[..],
            &["type", "veth", "peer", "name", other],
            &end[..],
        ]
        .concat();
        self.ip(&link)?;
        for interface in [one, other] {
            self.prepare(interface, options.queues)?;
        }
        // After GRO was set: an interface checks whether its peer accepts XDP frames when it comes
        // up, and is not notified of GRO that is set while the peer is down (Linux,
        // drivers/net/veth.c, veth_set_xdp_features).
        for interface in [one, other] {
            self.ip(&["link", "set", "dev", interface, "up"])?;
        }
        Ok(())
    }

    /// Moves an interface to another namespace and sets it up there.
    ///
    /// # Errors
    ///
    /// If `ip` fails; the error contains its standard error.
    pub fn hand_over(&self, interface: &str, to: &Self) -> Result<()> {
        self.ip(&["link", "set", "dev", interface, "netns", &to.name])?;
        to.ip(&["link", "set", "dev", interface, "up"])?;
        Ok(())
    }

    /// Adds an address with its prefix length, such as `10.1.0.1/24`, to an interface.
    ///
    /// # Errors
    ///
    /// If `ip` fails; the error contains its standard error.
    pub fn address(&self, interface: &str, prefix: &str) -> Result<()> {
        self.ip(&["address", "add", prefix, "dev", interface])
            .map(drop)
    }

    fn prepare(&self, interface: &str, queues: u32) -> Result<()> {
        let off = [
            "rx", "off", "tx", "off", "tso", "off", "gso", "off", "rxvlan", "off", "txvlan", "off",
        ];
        self.output(
            "ethtool",
            &[&["-K", interface, "gro", "on"], &off[..]].concat(),
        )?;
        if queues > 1 {
            // veth is made with all queues but uses only one by default.
            let queues = queues.to_string();
            self.output("ethtool", &["-L", interface, "rx", &queues, "tx", &queues])?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            let _ = writeln!(stderr(), "{error:#}");
        }
    }
}

fn delete(name: &str) -> Result<()> {
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Deletes namespaces of processes that were killed. Failures are ignored, because another process
/// may do the same at the same time.
fn delete_those_of_dead_processes() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return;
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names
        .filter(|name| owner(name).is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()))
    {
        let _ = delete(&name);
    }
}

/// Id of the process that made the namespace, if it was made here.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}
