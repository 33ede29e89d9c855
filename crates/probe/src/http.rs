//! HTTP on a thread of its own, for metrics and for the control socket.
//!
//! A client may be slow, silent or hostile. A connection is closed when its request is late or when
//! it has lasted too long; its buffer is bounded; and where there are too many the oldest is
//! closed, so that a scrape, which takes milliseconds, always gets through.

mod address;

pub use address::{Access, Address, Listener};

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tower::ServiceExt;
use xdprobe_pipeline::Deaths;

/// Servers at work; they end when this is dropped.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is served on one address.
pub struct Endpoint {
    /// What it is called in the log.
    pub name: &'static str,
    /// Where clients connect.
    pub listener: Listener,
    /// What is served.
    pub pages: Router,
    /// How long a connection may last.
    pub connection_max: Duration,
}

/// The process at the other end of a Unix socket (`unix(7)`, `SO_PEERCRED`).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its effective user id.
    pub user: u32,
}

/// How long the end waits for listings that are under way.
const LISTINGS_END_MAX: Duration = Duration::from_secs(1);
/// The thread's name.
const THREAD: &str = "http";
/// Connections at a time on one address: the next one closes the oldest.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take for its request.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// The most of a request that is kept in memory; hyper accepts no smaller limit.
const REQUEST_OCTETS_MAX: usize = 8_192;
/// The exposition format's own type (Prometheus, *Exposition formats*).
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

impl Server {
    /// Serves these endpoints.
    ///
    /// # Errors
    ///
    /// If the system provides no thread or no event loop.
    pub fn start(endpoints: Vec<Endpoint>, deaths: &Deaths) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("nothing can be served over HTTP: no runtime")?;
        let (stop, stopped) = oneshot::channel();
        let noted = deaths.clone();
        let work = move || {
            // Nothing is sent: the channel is closed when the server is dropped.
            let ended = runtime.block_on(either(serve_all(endpoints), stopped));
            if let Some(why) = ended {
                tracing::error!("{why}");
                noted.note(THREAD);
            }
            // Listings end as their readers go; the handle of the probe goes with them.
            runtime.shutdown_timeout(LISTINGS_END_MAX);
        };
        let thread = deaths.spawn(THREAD, work)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer of plain text.
pub fn text(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], text).into_response()
}

/// Serves the endpoints until one of them cannot be served any longer, and returns why.
async fn serve_all(endpoints: Vec<Endpoint>) -> String {
    let mut serving = JoinSet::new();
    for endpoint in endpoints {
        let name = endpoint.name;
        serving.spawn(async move { (name, serve(endpoint).await) });
    }
    match serving.join_next().await {
        Some(Ok((name, Err(error)))) => format!("{name}: no longer served: {error}"),
        Some(Err(error)) => format!("no longer served: {error}"),
        Some(Ok((name, Ok(())))) => format!("{name}: no longer served"),
        None => "nothing to serve".to_owned(),
    }
}

/// What `work` returns; none if `end` is over before.
async fn either<T>(work: impl Future<Output = T>, end: impl Future) -> Option<T> {
    let (mut work, mut end) = (pin!(work), pin!(end));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => end.as_mut().poll(context).map(|_| None),
    })
    .await
}

async fn serve(endpoint: Endpoint) -> io::Result<()> {
    let Endpoint {
        listener,
        pages,
        connection_max,
        ..
    } = endpoint;
    let mut connections = Connections::default();
    match listener {
        Listener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let Some(stream) = accepted(listener.accept().await).await else {
                    continue;
                };
                connections.add(converse(stream, pages.clone(), None, connection_max));
            }
        }
        Listener::Unix(listener, _file) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                let Some(stream) = accepted(listener.accept().await).await else {
                    continue;
                };
                let peer = stream.peer_cred().ok();
                let peer = peer.map(|peer| Peer { user: peer.uid() });
                connections.add(converse(stream, pages.clone(), peer, connection_max));
            }
        }
    }
}

async fn accepted<S, A>(accepted: io::Result<(S, A)>) -> Option<S> {
    /// Pause where the process has no descriptor left, until one is free again.
    const PAUSE: Duration = Duration::from_millis(100);
    match accepted {
        Ok((stream, _)) => Some(stream),
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// Connections under way, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<AbortHandle>);

impl Connections {
    fn add(&mut self, conversation: impl Future<Output = ()> + Send + 'static) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(tokio::spawn(conversation).abort_handle());
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    pages: Router,
    peer: Option<Peer>,
    connection_max: Duration,
) {
    let answer = |request: Request<_>| {
        let mut request = request.map(Body::new);
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        pages.clone().oneshot(request)
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_MAX)
        .max_buf_size(REQUEST_OCTETS_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client's errors are its own.
    let _ = tokio::time::timeout(connection_max, connection).await;
}
