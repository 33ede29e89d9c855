//! Network namespaces of a test's own, and veth pairs in them.
//!
//! A [`Namespace`] is deleted with everything in it when it is dropped, also by a panic. Its name
//! holds the process id and a number, so that tests may run side by side, and whoever makes one
//! first deletes those of processes that are no more. Needs to be root and the programs `ip` and
//! `ethtool`.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::interface::output;

/// What the names of all namespaces made here begin with; the process id follows.
const PREFIX: &str = "xdplab-";
/// Where `ip netns` keeps namespaces as files.
const FOLDER: &str = "/run/netns";

/// A network namespace with its loopback up and IPv6 off, so that nothing is in it but the traffic
/// that a test sends.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// How a veth pair is made; the same for both ends.
#[derive(Clone, Copy, Debug)]
pub struct VethOptions {
    /// Receive and send queues of each end.
    pub queues: u32,
    /// Largest IP packet in octets.
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
    /// When it cannot be made: the process is not root, or `ip` is not installed.
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
        // Else the kernel sends router solicitations and the like of its own accord whenever a link
        // comes up.
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

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in the namespace. Its process id is the program's own.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// What a program prints that is run in the namespace.
    ///
    /// # Errors
    ///
    /// When it does not start or does not succeed; the error holds what it said.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.command(program).args(arguments))
    }

    /// Runs `ip ARGUMENTS` in the namespace.
    ///
    /// # Errors
    ///
    /// When it does not succeed; the error holds what it said.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        output(
            Command::new("ip")
                .args(["-netns", &self.name])
                .args(arguments),
        )
    }

    /// Runs `work` on a thread that has entered the namespace, and returns what it returns. Sockets
    /// opened and threads and processes started there stay in the namespace. The thread's
    /// capabilities and files are the caller's.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// When `work` does, with its panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new(FOLDER).join(&self.name);
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
            entered.map_err(|error| {
                anyhow!(
                    "entering namespace {}: {error} (needs to be root)",
                    self.name
                )
            })
        })
    }

    /// Makes a veth pair with both ends up in this namespace, ready for XDP-transmitted frames in
    /// either direction: generic receive offload on, offloads that would change or delay frames
    /// off.
    ///
    /// # Errors
    ///
    /// When a tool does not succeed; the error holds what it said.
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
        // Only now: an interface learns whether its far end takes XDP frames when it comes up
        // itself, and GRO that is switched on at a far end which is down does not tell it (Linux,
        // drivers/net/veth.c, veth_set_xdp_features).
        for interface in [one, other] {
            self.ip(&["link", "set", "dev", interface, "up"])?;
        }
        Ok(())
    }

    /// Moves an interface into another namespace and sets it up there.
    ///
    /// # Errors
    ///
    /// When `ip` does not succeed; the error holds what it said.
    pub fn hand_over(&self, interface: &str, to: &Self) -> Result<()> {
        self.ip(&["link", "set", "dev", interface, "netns", &to.name])?;
        to.ip(&["link", "set", "dev", interface, "up"])?;
        Ok(())
    }

    /// Gives an interface an address, such as `10.1.0.1/24`.
    ///
    /// # Errors
    ///
    /// When `ip` does not succeed; the error holds what it said.
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
            // veth has its queues from the start but uses one until it is told otherwise.
            let queues = queues.to_string();
            self.output("ethtool", &["-L", interface, "rx", &queues, "tx", &queues])?;
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

fn delete(name: &str) -> Result<()> {
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Deletes what killed runs have left. Another process may do the same at the same time, so
/// failures do not matter.
fn delete_those_of_dead_processes() {
    let Ok(folder) = fs::read_dir(FOLDER) else {
        return;
    };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names
        .filter(|name| owner(name).is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()))
    {
        let _ = delete(&name);
    }
}

/// The process that made the namespace of that name, if one of this library did.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}
