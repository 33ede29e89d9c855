//! Requests to a running probe over its control socket.

use super::socket::only_probe;
use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// A connection to a probe is made for each request.
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

/// An answer other than success.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{said}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What the probe said.
    pub said: String,
}

impl Client {
    /// A client of the probe at this socket, or of the only running one.
    ///
    /// # Errors
    ///
    /// If no path is given, and none or several are running.
    pub fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            path: path.map_or_else(only_probe, |path| Ok(path.to_owned()))?,
            runtime,
        })
    }

    /// The control socket of the probe.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether something listens on the socket.
    pub fn is_answered(&self) -> bool {
        std::os::unix::net::UnixStream::connect(&self.path).is_ok()
    }

    /// Looks: the answer of a path, as JSON.
    ///
    /// # Errors
    ///
    /// If the probe cannot be reached, or what it says is not understood; [`Refusal`] if it
    /// refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path)
    }

    /// Changes: the answer of a path, as JSON.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn post<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::POST, path)
    }

    /// Looks: calls `each` with each line of the answer, until it returns false.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and if the answer ends in the middle.
    pub fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, path).await?.into_body();
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.with_context(|| {
                    format!("{}: the answer ends in the middle", self.path.display())
                })?;
                let Ok(octets) = frame.into_data() else {
                    continue;
                };
                rest.extend_from_slice(&octets);
                let Some(end) = rest.iter().rposition(|octet| *octet == b'\n') else {
                    continue;
                };
                for line in rest[..end].split(|octet| *octet == b'\n') {
                    if !each(line)? {
                        return Ok(());
                    }
                }
                rest.drain(..=end);
            }
            Ok(())
        })
    }

    /// Waits until nothing listens on the socket any more.
    pub fn wait_for_end(&self) {
        const INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);
        while self.is_answered() {
            std::thread::sleep(INTERVAL);
        }
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            let answer = self.send(method, path).await?;
            let body = answer.into_body().collect().await?.to_bytes();
            serde_json::from_slice(&body).with_context(|| {
                format!(
                    "{}: an answer that is not understood; are both of the same version?",
                    self.path.display()
                )
            })
        })
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.path);
        let stream = stream.await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "xdprobe")
            .body(Empty::<Bytes>::new())
            .with_context(|| format!("'{path}' cannot be asked for"))?;
        let answer = sender
            .send_request(request)
            .await
            .with_context(|| format!("{}: no answer; has the probe ended?", self.path.display()))?;
        let status = answer.status();
        if !status.is_success() {
            let said = answer.into_body().collect().await?.to_bytes();
            let said = String::from_utf8_lossy(&said).trim_end().to_owned();
            bail!(Refusal {
                status: status.as_u16(),
                said,
            });
        }
        Ok(answer)
    }

    fn unreachable(&self, error: &std::io::Error) -> anyhow::Error {
        let path = self.path.display();
        match error.kind() {
            ErrorKind::PermissionDenied => anyhow!(
                "{path}: permission denied: looking is for the socket's group, changing for its \
                 owner and root"
            ),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
                "{path}: no probe is running there: start one, or name its socket with --control \
                 PATH"
            ),
            _ => anyhow!("{path}: {error}"),
        }
    }
}
