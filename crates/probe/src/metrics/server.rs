//! HTTP: `/metrics`, `/healthz` and `/readyz`, on a thread of its own.
//!
//! A client may be slow, silent or hostile. A connection is closed when its request is late or when
//! it has lasted too long; its buffer is bounded; and where there are too many the oldest is
//! closed, so that a scrape, which takes milliseconds, always gets through.

use super::address::Listener;
use super::sheet::Sheet;
use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use xdprobe_pipeline::readiness::not_ready;
use xdprobe_pipeline::{Boards, Snapshot};

/// A server at work; it ends when this is dropped.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Connections at a time: the next one closes the oldest.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take for its request, and a connection may last.
const REQUEST_MAX: Duration = Duration::from_secs(5);
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// The most of a request that is kept in memory; hyper accepts no smaller limit.
const REQUEST_OCTETS_MAX: usize = 8_192;
/// How long a snapshot serves: the kernel is asked for its counts at most this often, in ms.
const FRESH_MS: u64 = 1_000;
/// The exposition format's own type (Prometheus, *Exposition formats*).
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

impl Server {
    /// Serves what is published on the boards.
    ///
    /// # Errors
    ///
    /// If the system provides no thread or no event loop.
    pub fn start(listener: Listener, boards: Boards) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("metrics cannot be served: no runtime")?;
        tracing::info!("metrics on {listener}");
        let (stop, stopped) = oneshot::channel();
        let (deaths, noted) = (boards.deaths.clone(), boards.deaths.clone());
        let page = Arc::new(Mutex::new(Page {
            sheet: Sheet::new(),
            boards,
            snapshot: None,
        }));
        let work = move || {
            // Nothing is sent: the channel is closed when the server is dropped.
            let served = runtime.block_on(either(serve(listener, page), stopped));
            if let Some(Err(error)) = served {
                tracing::error!("metrics are no longer served: {error}");
                noted.note(THREAD);
            }
        };
        let thread = deaths.spawn(THREAD, work)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// The thread's name.
const THREAD: &str = "metrics";

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is served, from a snapshot that is at most a second old.
struct Page {
    sheet: Sheet,
    boards: Boards,
    snapshot: Option<Snapshot>,
}

impl Page {
    fn snapshot(&mut self) -> &Snapshot {
        let fresh_from_ms = self.boards.uptime_ms().saturating_sub(FRESH_MS);
        let kept = self
            .snapshot
            .take()
            .filter(|kept| kept.uptime_ms > fresh_from_ms);
        self.snapshot
            .insert(kept.unwrap_or_else(|| self.boards.snapshot()))
    }

    fn answer(&mut self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are supported\n".to_owned(),
            );
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                self.snapshot();
                let Self {
                    sheet, snapshot, ..
                } = self;
                text(
                    StatusCode::OK,
                    snapshot
                        .as_ref()
                        .map(|snapshot| sheet.render(snapshot))
                        .unwrap_or_default(),
                )
            }
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match not_ready(self.snapshot()) {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n".to_owned()),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "expected /metrics, /healthz or /readyz\n".to_owned(),
            ),
        }
    }
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
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

async fn serve(listener: Listener, page: Arc<Mutex<Page>>) -> io::Result<()> {
    let mut connections = Connections::default();
    match listener {
        Listener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                connections.accept(listener.accept().await, &page).await;
            }
        }
        Listener::Unix(listener, _file) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                connections.accept(listener.accept().await, &page).await;
            }
        }
    }
}

/// Connections under way, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<AbortHandle>);

impl Connections {
    async fn accept<S, A>(&mut self, accepted: io::Result<(S, A)>, page: &Arc<Mutex<Page>>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        /// Pause where the process has no descriptor left, until one is free again.
        const PAUSE: Duration = Duration::from_millis(100);
        let Ok((stream, _)) = accepted else {
            return tokio::time::sleep(PAUSE).await;
        };
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0
            .push_back(tokio::spawn(converse(stream, Arc::clone(page))).abort_handle());
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, page: Arc<Mutex<Page>>) {
    let answer = |request| {
        let response = page
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(&request);
        async move { Ok::<_, Infallible>(response) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_MAX)
        .max_buf_size(REQUEST_OCTETS_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client's errors are its own.
    let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
}
