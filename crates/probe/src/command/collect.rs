//! `xdprobe collect`: receives datagrams and stores them in flow-tools files, as flow-capture does.

use super::cat::Order;
use crate::logging::{LogLevel, report};
use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use xdprobe_collect::collector::{Allowed, Collector, unix_s};
use xdprobe_collect::receive::{Receiver, SOCKET_BUFFER_OCTETS};
use xdprobe_collect::store::{Limits, Nesting, Rotations, Store, StoreOptions};
use xdprobe_collect::{ByteOrder, LEVEL_DEFAULT, Version, system_zone};

/// How long one turn waits for datagrams. A signal ends the wait.
const WAIT: Duration = Duration::from_millis(250);
/// flow-capture's default port, for port 0.
const PORT_DEFAULT: u16 = 9991;

/// The command line.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Local address, exporter's address (0 = any for both), UDP port
    #[arg(value_name = "LOCAL/REMOTE/PORT")]
    address: ListenAddress,
    /// Directory of the files
    #[arg(short = 'w', value_name = "DIR")]
    directory: PathBuf,
    /// Rotations a day, 0 to 1439: each file covers 86400 / (N + 1) seconds, counted from local
    /// midnight [default: 95]
    #[arg(
        short = 'n',
        value_name = "N",
        value_parser = rotations,
        default_value = "95",
        hide_default_value = true,
    )]
    rotations: Rotations,
    /// Directories below DIR: 0 none, 1 YYYY, 2 YYYY/YYYY-MM, 3 YYYY/YYYY-MM/YYYY-MM-DD, -1
    /// YYYY-MM-DD, -2 YYYY-MM/YYYY-MM-DD
    #[arg(
        short = 'N',
        value_name = "LEVEL",
        value_parser = nesting,
        default_value = "3",
        allow_negative_numbers = true,
    )]
    nesting: Nesting,
    /// Keep at most this many files
    #[arg(short = 'e', value_name = "COUNT")]
    expire_count: Option<usize>,
    /// Keep at most this size of files, in octets or in units of b (512), K, M, G
    #[arg(short = 'E', value_name = "SIZE[bKMG]", value_parser = size)]
    expire_size: Option<u64>,
    /// zlib level, 1 to 9; 0 stores plain records, at the highest rate
    #[arg(
        short = 'z',
        value_name = "LEVEL",
        default_value_t = LEVEL_DEFAULT,
        value_parser = clap::value_parser!(u32).range(0..=9),
    )]
    level: u32,
    /// Version of all stored records: 1, 5 or 7 [default: each record in the version that it came
    /// in; each version has files of its own]
    #[arg(short = 'V', value_name = "VERSION")]
    version: Option<Version>,
    /// Byte order of the files [default: this machine's]
    #[arg(short, value_name = "ORDER")]
    byte_order: Option<Order>,
    /// Comment for the files' headers
    #[arg(short = 'C', value_name = "TEXT")]
    comment: Option<String>,
    /// Write the process id to FILE.PORT
    #[arg(short, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Run this program with the name of each finished file
    #[arg(short = 'R', value_name = "PROGRAM")]
    rotate_program: Option<PathBuf>,
    /// Log counts of each exporter every 1 to 60 minutes; 0 = never
    #[arg(
        short = 'S',
        value_name = "MINUTES",
        value_parser = clap::value_parser!(i64).range(0..=60),
        default_value_t = 0,
        hide_default_value = true,
    )]
    statistics: i64,
    /// Accept datagrams only of exporters with these addresses or networks
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',', value_parser = network)]
    allow: Vec<IpNet>,
    /// Accepted for compatibility with flow-capture; the collector always stays in the foreground
    #[arg(short = 'D', hide = true)]
    foreground: bool,
    /// Accepted for compatibility with flow-capture; the umask is always kept
    #[arg(short = 'u', hide = true)]
    keep_umask: bool,
}

/// Collects until SIGINT, SIGTERM or SIGQUIT.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !arguments.directory.is_dir() {
        bail!(
            "{} is not a directory: create it, or choose another with -w",
            arguments.directory.display()
        );
    }
    let address = arguments.address;
    let socket = Receiver::bind(address.socket(), SOCKET_BUFFER_OCTETS)
        .with_context(|| format!("cannot listen on UDP {}", address.socket()))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1])?;
    let _pid_file = arguments
        .pid_file
        .as_deref()
        .map(|path| PidFile::write(path, address.port))
        .transpose()?
        .flatten();
    let (store, recovered) = Store::open(store_options(arguments), unix_s())
        .with_context(|| format!("cannot use {}", arguments.directory.display()))?;
    for file in recovered {
        tracing::info!("{file}");
    }
    tracing::info!(
        "listening on UDP {}, receive buffer {} octets, files in {}",
        socket.local_addr()?,
        socket.buffer_octets()?,
        arguments.directory.display()
    );
    let mut collector = Collector::start(socket, store, allowed(arguments))?;
    let mut statistics = Statistics::new(arguments.statistics, address.local);
    let worked = collect(&mut collector, &mut signals, &mut statistics);
    let totals = collector.stop();
    worked?;
    let totals = totals.context("cannot finish the last file")?;
    report(LogLevel::Info, &totals);
    if totals.failed > 0 {
        bail!(
            "{} records could not be stored: see the errors above and the free space on the disk",
            totals.failed
        );
    }
    Ok(())
}

/// Collects until a signal to end.
fn collect(
    collector: &mut Collector,
    signals: &mut Signals,
    statistics: &mut Statistics,
) -> io::Result<()> {
    let mut ticked_at = 0;
    loop {
        collector.turn(WAIT)?;
        for signal in signals.pending() {
            match signal {
                SIGHUP => collector.rotate()?,
                SIGUSR1 => report(LogLevel::Info, collector.totals()),
                _ => return Ok(()),
            }
        }
        let now = unix_s();
        if now != ticked_at {
            ticked_at = now;
            collector.tick();
            statistics.log_if_due(collector, now);
        }
    }
}

/// The lines of flow-capture's -S: one for each exporter, at each multiple of a number of minutes.
struct Statistics {
    every_s: i64,
    started: i64,
    next: i64,
    local: IpAddr,
}

impl Statistics {
    fn new(every_minutes: i64, local: IpAddr) -> Self {
        let (every_s, started) = (every_minutes * 60, unix_s());
        Self {
            every_s,
            started,
            next: started,
            local,
        }
    }

    fn log_if_due(&mut self, collector: &Collector, now: i64) {
        if self.every_s == 0 || now < self.next {
            return;
        }
        self.next = (now / self.every_s + 1) * self.every_s;
        let (started, local) = (self.started, self.local);
        for (address, version, exporter) in collector.exporters().list() {
            tracing::info!(
                "STAT: now={now} startup={started} src_ip={address} dst_ip={local} d_ver={} \
                 pkts={} flows={} lost={} \
                 reset={} filter_drops=0",
                version.number(),
                exporter.datagrams,
                exporter.records,
                exporter.lost,
                exporter.resets
            );
        }
        tracing::info!("STAT: {}", collector.totals());
    }
}

/// `LOCAL/REMOTE/PORT`. 0 is any address, and flow-capture's default port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct ListenAddress {
    local: IpAddr,
    remote: Option<IpAddr>,
    port: u16,
}

impl ListenAddress {
    fn socket(self) -> SocketAddr {
        (self.local, self.port).into()
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("{text:?}, expected LOCAL/REMOTE/PORT, as 0/0/2055 or [::]/0/2055");
        let mut parts = text.split('/');
        let (Some(local), Some(remote), Some(port)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(expected());
        };
        // flow-capture accepts a fourth part, the TTL of multicast, without effect.
        if parts.count() > 1 {
            return Err(expected());
        }
        let remote = address(remote)?;
        let any = match remote {
            Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let port = match port.parse().map_err(|_| expected())? {
            0 => PORT_DEFAULT,
            port => port,
        };
        Ok(Self {
            local: address(local)?.unwrap_or(any),
            remote,
            port,
        })
    }
}

/// An address, or `None` for 0.
fn address(text: &str) -> Result<Option<IpAddr>, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    match bare {
        "0" => Ok(None),
        _ => bare.parse().map(Some).map_err(|_| {
            format!(
                "{text:?} is not an address: expected 0, 192.0.2.1 or \
                [2001:db8::1]"
            )
        }),
    }
}

/// The file with the process id, removed at the end.
struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes the file with flow-capture's name, `PATH.PORT`. `-` is no file. A file that is there
    /// is replaced if it is a pid file, and never written to.
    fn write(path: &Path, port: u16) -> anyhow::Result<Option<Self>> {
        if path.as_os_str().is_empty() || path.as_os_str() == "-" {
            return Ok(None);
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{port}"));
        let path = PathBuf::from(name);
        let text = format!("{}\n", std::process::id());
        let file = Self { path, text };
        file.create()
            .with_context(|| format!("cannot write {}", file.path.display()))?;
        Ok(Some(file))
    }

    fn create(&self) -> anyhow::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(there) if there.is_symlink() => bail!("it is a symbolic link: remove it"),
            Ok(there) if !there.is_file() => bail!("it is not a regular file: remove it"),
            Ok(there) if there.len() > PID_OCTETS_MAX => bail!("it is not a pid file: remove it"),
            Ok(_) => {
                let left = fs::read_to_string(&self.path)?;
                if !left.trim().bytes().all(|octet| octet.is_ascii_digit()) {
                    bail!("it is not a pid file: remove it");
                }
                fs::remove_file(&self.path)?;
            }
            Err(_) => {}
        }
        fs::File::create_new(&self.path)?.write_all(self.text.as_bytes())?;
        Ok(())
    }
}

/// Digits of a process id and the end of the line, and some blanks.
const PID_OCTETS_MAX: u64 = 32;

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another collector may have replaced it. A file that cannot be removed does no harm, and
        // the process ends.
        let is_own = fs::symlink_metadata(&self.path).is_ok_and(|there| there.is_file())
            && fs::read_to_string(&self.path).is_ok_and(|text| text == self.text);
        if is_own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn store_options(arguments: &Arguments) -> StoreOptions {
    StoreOptions {
        directory: arguments.directory.clone(),
        nesting: arguments.nesting,
        rotations: arguments.rotations,
        // 0 is no limit, as in flow-capture.
        limits: Limits {
            files: arguments.expire_count.filter(|count| *count > 0),
            octets: arguments.expire_size.filter(|octets| *octets > 0),
        },
        version: arguments.version,
        order: arguments
            .byte_order
            .map_or(ByteOrder::NATIVE, ByteOrder::from),
        level: arguments.level,
        hostname: nix::unistd::gethostname()
            .ok()
            .map(|name| name.to_string_lossy().into_owned()),
        comment: arguments.comment.clone(),
        after_rotation: arguments.rotate_program.clone(),
        zone: system_zone(),
    }
}

/// The exporters of --allow, and the one of the address.
fn allowed(arguments: &Arguments) -> Allowed {
    let remote = arguments.address.remote.map(IpNet::from);
    Allowed::new(arguments.allow.iter().copied().chain(remote).collect())
}

fn rotations(text: &str) -> Result<Rotations, String> {
    text.parse::<u16>()
        .map_err(|error| error.to_string())?
        .try_into()
}

fn nesting(text: &str) -> Result<Nesting, String> {
    text.parse::<i8>()
        .map_err(|error| error.to_string())?
        .try_into()
}

fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse())
        .map_err(|_| "expected an address or ADDRESS/LENGTH".into())
}

/// A size in the units of flow-tools.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.chars().last() {
        Some('b') => (&text[..text.len() - 1], 512),
        Some('K' | 'k') => (&text[..text.len() - 1], 1 << 10),
        Some('M' | 'm') => (&text[..text.len() - 1], 1 << 20),
        Some('G' | 'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let octets = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    octets.ok_or_else(|| "expected a number of octets, or a number with unit b, K, M or G".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_flow_capture() {
        let listen = |text: &str| text.parse::<ListenAddress>();
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        assert_eq!(
            listen("0/0/4444"),
            Ok(ListenAddress {
                local: any,
                remote: None,
                port: 4444
            })
        );
        assert_eq!(
            listen("0/0/0"),
            Ok(ListenAddress {
                local: any,
                remote: None,
                port: 9991
            })
        );
        let there = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(listen("127.0.0.1/10.0.0.1/2055/4").unwrap().remote, there);
        assert_eq!(
            listen("[::]/0/2055").unwrap().socket().to_string(),
            "[::]:2055"
        );
        assert_eq!(
            listen("0/[2001:db8::1]/2055").unwrap().socket().to_string(),
            "[::]:2055"
        );
        assert!(listen("4444").is_err() && listen("0/0/x").is_err() && listen("here/0/1").is_err());
    }

    #[test]
    fn sizes_have_the_units_of_flow_tools() {
        assert_eq!(
            [size("10"), size("2b"), size("3K"), size("4M"), size("1G")],
            [Ok(10), Ok(1024), Ok(3072), Ok(4 << 20), Ok(1 << 30)]
        );
        assert!(size("").is_err() && size("G").is_err() && size("99999999999999G").is_err());
    }
}
