//! Where the control socket is.
//!
//! Each probe has one in [`FOLDER`], named after what it captures from, so that the commands find
//! it. Its file has mode 0660: those of its group may look.

use crate::http::{Access, Address, Listener};
use anyhow::{Context, bail};
use nix::unistd::{Group, chown};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{DirBuilder, read_dir};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The folder of control sockets.
const FOLDER: &str = "/run/xdprobe";
/// How their names end.
const SUFFIX: &str = "sock";

/// The socket that an operator asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ControlSocket {
    /// In the folder, where that can be made.
    #[default]
    Default,
    /// At this path.
    At(PathBuf),
    /// Without one.
    None,
}

/// A probe that can be asked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Running {
    /// Its name: that of its socket.
    pub name: String,
    /// Its socket.
    pub path: PathBuf,
}

impl ControlSocket {
    /// Listens. A probe named `name` gets its socket in the folder; where that cannot be made the
    /// log says why, and there is none.
    ///
    /// # Errors
    ///
    /// If the socket at a path that an operator named cannot be made, or there is no such group.
    pub fn listen(&self, name: &str, group: Option<&str>) -> anyhow::Result<Option<Listener>> {
        let bound = match self {
            Self::None => return Ok(None),
            Self::At(path) => listen_at(path, group)?,
            Self::Default => {
                let bound = in_folder(name).and_then(|path| listen_at(&path, group));
                match bound {
                    Ok(bound) => bound,
                    Err(error) if group.is_none() => {
                        tracing::info!("no control socket: {error:#}; --control PATH makes one");
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(Some(bound))
    }
}

fn listen_at(path: &Path, group: Option<&str>) -> anyhow::Result<Listener> {
    let access = Access {
        mode: 0o660,
        what: "requests",
        option: "--control",
    };
    let listener = Address::Unix(path.to_owned()).listen(&access)?;
    if let Some(name) = group {
        let group = Group::from_name(name)
            .ok()
            .flatten()
            .with_context(|| format!("--control-group: there is no group '{name}'"))?;
        chown(path, None, Some(group.gid)).with_context(|| {
            format!(
                "{}: cannot be given to group {name}: run as a member of it, or as root",
                path.display()
            )
        })?;
    }
    Ok(listener)
}

/// A free name in the folder: two probes may capture from one interface with libpcap.
fn in_folder(name: &str) -> anyhow::Result<PathBuf> {
    let made = DirBuilder::new().mode(0o755).recursive(true).create(FOLDER);
    made.with_context(|| FOLDER)?;
    let path = |name: &str| Path::new(FOLDER).join(format!("{name}.{SUFFIX}"));
    let first = path(name);
    if is_answered(&first) {
        return Ok(path(&format!("{name}.{}", std::process::id())));
    }
    Ok(first)
}

fn is_answered(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        // Others than its group are not let in.
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// The probes that have their socket in the folder.
pub fn running_probes() -> Vec<Running> {
    let entries = read_dir(FOLDER).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let sockets = paths.filter(|path| path.extension() == Some(OsStr::new(SUFFIX)));
    let running = sockets
        .filter(|path| is_answered(path))
        .map(|path| Running {
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            path,
        });
    let mut running: Vec<_> = running.collect();
    running.sort();
    running
}

/// The socket of the only running probe.
///
/// # Errors
///
/// If there is none, or there are several: all are named.
pub fn only_probe() -> anyhow::Result<PathBuf> {
    match &running_probes()[..] {
        [only] => Ok(only.path.clone()),
        [] => bail!(
            "no running probe has its control socket in {FOLDER}: start one, or name its socket \
             with --control PATH"
        ),
        several => {
            let names: Vec<_> = several.iter().map(ToString::to_string).collect();
            bail!(
                "{} probes are running: choose one with --control: {}",
                several.len(),
                names.join(", ")
            )
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl FromStr for ControlSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            path if path.contains('/') => Ok(Self::At(path.into())),
            _ => Err(format!(
                "'{text}' is not the path of a socket: expected a path with a /, or none"
            )),
        }
    }
}
