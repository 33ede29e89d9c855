//! Where pages are served: a TCP address or a Unix socket, bound before anything else starts.

use anyhow::{Context, anyhow};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::fs::{Metadata, Permissions, set_permissions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where to listen, as an operator writes it: `ADDR:PORT`, `[V6]:PORT`, `PORT` on the loopback
/// address, or `unix:PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A TCP address; port 0 is any free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Who may connect, and how errors name the socket.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Mode of the file of a Unix socket.
    pub mode: u32,
    /// What is served, as a sentence begins with it.
    pub what: &'static str,
    /// The option that names the address.
    pub option: &'static str,
}

/// A bound socket.
pub enum Listener {
    /// On a TCP address.
    Tcp(TcpListener),
    /// On a Unix socket, whose file goes with it.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, removed when this is dropped, but only the very same file.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(
                    "'unix:' names no socket: expected unix:PATH, as in unix:/run/xdprobe/metrics"
                        .to_owned(),
                )
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let on_loopback = text
            .parse()
            .map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        on_loopback.or_else(|_| text.parse()).map(Self::Tcp).map_err(|_| {
            format!(
                "'{text}' is not an address to listen on: expected ADDR:PORT, [V6]:PORT, PORT (on \
                 127.0.0.1) or unix:PATH"
            )
        })
    }
}

impl Address {
    /// Binds it.
    ///
    /// # Errors
    ///
    /// The system's reason: in use, no such address, no permission.
    pub fn listen(&self, access: &Access) -> anyhow::Result<Listener> {
        let bound = match self {
            Self::Tcp(address) => listen_on_tcp(*address),
            Self::Unix(path) => listen_on_file(path, access.mode),
        };
        let Access { what, option, .. } = access;
        bound.with_context(|| format!("{what} cannot be served on {self}; choose another {option}"))
    }
}

fn listen_on_tcp(address: SocketAddr) -> anyhow::Result<Listener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::Tcp(listener))
}

fn listen_on_file(path: &Path, mode: u32) -> anyhow::Result<Listener> {
    const CONNECTIONS_WAITING_MAX: i32 = 128;
    if let Ok(there) = path.symlink_metadata() {
        if !there.file_type().is_socket() {
            return Err(anyhow!("a file of this name exists and is not a socket"));
        }
        match UnixStream::connect(path) {
            // Left behind by a process that has ended.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                SocketFile::of(path, &there).remove()?;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(anyhow!("another process is listening on it")),
        }
    }
    // No client connects before the file has its mode.
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path, &path.symlink_metadata()?);
    set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(CONNECTIONS_WAITING_MAX)?;
    socket.set_nonblocking(true)?;
    Ok(Listener::Unix(socket.into(), file))
}

impl SocketFile {
    fn of(path: &Path, there: &Metadata) -> Self {
        Self {
            // The program may change its directory.
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            id: (there.dev(), there.ino()),
        }
    }

    /// Removes it, unless something else has its name by now.
    fn remove(&self) -> std::io::Result<()> {
        let there = self.path.symlink_metadata()?;
        if there.file_type().is_socket() && (there.dev(), there.ino()) == self.id {
            std::fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = self.remove();
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Listener {
    /// Where a client connects: a URL, or a path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "http://{address}"),
                Err(error) => error.fmt(f),
            },
            Self::Unix(_, SocketFile { path, .. }) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_the_loopback_address() {
        let tcp = |text: &str| Ok(Address::Tcp(text.parse().unwrap()));
        assert_eq!("9433".parse(), tcp("127.0.0.1:9433"));
        assert_eq!("[::]:9433".parse(), tcp("[::]:9433"));
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for bad in ["", "70000", "tap0:9433", "::1:9433x", "127.0.0.1", "unix:"] {
            assert!(
                bad.parse::<Address>().unwrap_err().contains("expected"),
                "{bad}"
            );
        }
    }

    const ACCESS: Access = Access {
        mode: 0o600,
        what: "metrics",
        option: "--metrics",
    };

    #[test]
    fn a_socket_that_a_crash_left_is_replaced_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let refused = |expected: &str| {
            let error = format!(
                "{:#}",
                Address::Unix(path.clone()).listen(&ACCESS).err().unwrap()
            );
            assert!(error.contains(expected), "{error}");
        };
        drop(UnixListener::bind(&path).unwrap());
        let listener = Address::Unix(path.clone()).listen(&ACCESS).unwrap();
        refused("another process is listening on it");
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        refused("not a socket");
    }
}
