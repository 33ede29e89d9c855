//! The paths of the control socket, and who may use them.

use super::flows::{self, FlowsQuery, Reader};
use super::probe::{Order, Probe, ReloadRequest, Unchanged};
use super::query::{FlowQuery, of_parameters};
use super::queues::Queues;
use super::top::{self, TopQuery};
use crate::http::{Peer, text};
use axum::body::Body;
use axum::extract::{FromRequestParts, RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header::CONTENT_TYPE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::{ArgAction, Args};
use crossbeam_channel::{Sender, bounded};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use xdprobe_pipeline::{Ledger, Pipeline};

/// A path, and what it does.
pub struct Path {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path itself.
    pub path: &'static str,
    /// In a few words.
    pub what: &'static str,
}

/// Every path.
pub const PATHS: [Path; 10] = [
    path("GET", "/flows", "resident flows, as JSON lines"),
    path("GET", "/top", "resident flows added up, as JSON"),
    path("GET", "/ledger", "the ledger, as JSON"),
    path("GET", "/ledger.txt", "the ledger, as text"),
    path("GET", "/queues", "each queue, as JSON"),
    path("GET", "/collectors", "each collector, as JSON"),
    path("GET", "/config", "each key of the configuration, as JSON"),
    path("POST", "/expire", "expire resident flows now"),
    path("POST", "/reload", "read the configuration again"),
    path("POST", "/stop", "stop the probe"),
];

/// How a reload is asked for.
#[derive(Args, Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReloadQuery {
    /// Only print what would change
    #[arg(
        long,
        default_value_t,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true
    )]
    pub dry_run: bool,
}

/// The answer of `/expire`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Expired {
    /// Flows that were expired.
    pub expired: u64,
}

/// Listings at a time, each with a thread and batches of its own.
const LISTINGS_MAX: usize = 8;
/// Chunks of lines that wait for a slow reader.
const CHUNKS_MAX: usize = 4;

const fn path(method: &'static str, path: &'static str, what: &'static str) -> Path {
    Path { method, path, what }
}

/// The pages of the control socket.
pub fn pages(pipeline: Arc<Pipeline>, orders: Sender<Order>) -> Router {
    let probe = Arc::new(Probe {
        pipeline,
        orders,
        listings: Arc::new(Semaphore::new(LISTINGS_MAX)),
        sums: Arc::new(Semaphore::new(LISTINGS_MAX)),
    });
    Router::new()
        .route("/flows", get(list_flows))
        .route("/top", get(show_top))
        .route("/ledger", get(show_ledger))
        .route("/ledger.txt", get(show_ledger_as_text))
        .route("/queues", get(show_queues))
        .route("/collectors", get(show_collectors))
        .route("/config", get(show_config))
        .route("/expire", post(expire))
        .route("/reload", post(reload))
        .route("/stop", post(stop))
        .route("/", get(|| async { text(StatusCode::OK, index()) }))
        .method_not_allowed_fallback(|request: Request| async move {
            let said = format!(
                "{} is not for {}; the paths are:\n{}",
                request.method(),
                request.uri().path(),
                index()
            );
            text(StatusCode::METHOD_NOT_ALLOWED, said)
        })
        .fallback(|request: Request| async move {
            let said = format!("no {}; the paths are:\n{}", request.uri().path(), index());
            text(StatusCode::NOT_FOUND, said)
        })
        .layer(middleware::from_fn(admit))
        .with_state(probe)
}

/// A line for each path.
fn index() -> String {
    let line = |path: &Path| format!("{:<5} {:<12} {}\n", path.method, path.path, path.what);
    PATHS.iter().map(line).collect()
}

/// Lets everybody look who could open the socket, and its owner and root change.
async fn admit(request: Request, next: Next) -> Response {
    let owner = Uid::effective().as_raw();
    let looks = request.method().is_safe();
    match request.extensions().get::<Peer>() {
        _ if looks => next.run(request).await,
        Some(peer) if peer.user == 0 || peer.user == owner => next.run(request).await,
        Some(Peer { user }) => refused(
            StatusCode::FORBIDDEN,
            format!(
                "user {user} may look, and not change: that is for user {owner}, who runs the \
                 probe, and root"
            ),
        ),
        None => refused(
            StatusCode::FORBIDDEN,
            "only on the control socket, where the user is known".to_owned(),
        ),
    }
}

fn refused(status: StatusCode, said: String) -> Response {
    text(status, said + "\n")
}

type Shared = State<Arc<Probe>>;

/// That a request has no parameters, for paths that take none.
struct NoParameters;

impl<S: Sync> FromRequestParts<S> for NoParameters {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(found) => {
                let said = format!("{} takes no parameters, found '{found}'", parts.uri.path());
                Err(refused(StatusCode::BAD_REQUEST, said))
            }
        }
    }
}

async fn list_flows(State(probe): Shared, RawQuery(query): RawQuery) -> Response {
    let query = match of_parameters::<FlowsQuery>(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(said) => return refused(StatusCode::BAD_REQUEST, said),
    };
    let Ok(permit) = Arc::clone(&probe.listings).try_acquire_owned() else {
        return too_many();
    };
    let interface = match query.flows.interface() {
        Ok(interface) => interface,
        Err(error) => return refused(StatusCode::BAD_REQUEST, format!("{error:#}")),
    };
    let (chunks, taken) = mpsc::channel(CHUNKS_MAX);
    let is_given_up = Arc::new(AtomicBool::new(false));
    let reader = Reader {
        chunks,
        runtime: Handle::current(),
        is_given_up: Arc::clone(&is_given_up),
    };
    tokio::task::spawn_blocking(move || {
        flows::list(&probe, &query, interface, &reader);
        drop(permit);
    });
    // A listing that is cut must not seem to be whole.
    let cut = move || is_given_up.load(Ordering::Relaxed);
    let cut = std::iter::from_fn(move || cut().then(|| Err(io::ErrorKind::TimedOut.into())));
    let body = Body::from_stream(ReceiverStream::new(taken).chain(tokio_stream::iter(cut)));
    ([(CONTENT_TYPE, "application/jsonl")], body).into_response()
}

async fn show_top(State(probe): Shared, RawQuery(query): RawQuery) -> Response {
    let query = match of_parameters::<TopQuery>(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(said) => return refused(StatusCode::BAD_REQUEST, said),
    };
    let Ok(permit) = Arc::clone(&probe.sums).try_acquire_owned() else {
        return too_many();
    };
    let interface = match query.flows.interface() {
        Ok(interface) => interface,
        Err(error) => return refused(StatusCode::BAD_REQUEST, format!("{error:#}")),
    };
    let top = tokio::task::spawn_blocking(move || {
        let top = top::top(&probe, &query, interface);
        drop(permit);
        top
    });
    match top.await {
        Ok(top) => Json(top).into_response(),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn show_ledger(State(probe): Shared, _: NoParameters) -> Response {
    Json(Ledger::draw_up(&probe.pipeline.snapshot())).into_response()
}

async fn show_ledger_as_text(State(probe): Shared, _: NoParameters) -> Response {
    let ledger = Ledger::draw_up(&probe.pipeline.snapshot());
    text(StatusCode::OK, format!("{ledger}\n"))
}

async fn show_queues(State(probe): Shared, _: NoParameters) -> Response {
    Json(Queues::of(&probe.pipeline.snapshot())).into_response()
}

async fn show_collectors(State(probe): Shared, _: NoParameters) -> Response {
    let snapshot = probe.pipeline.snapshot();
    let ledger = json!(Ledger::draw_up(&snapshot));
    let answer = json!({
        "uptime_ms": snapshot.uptime_ms,
        "distribution": ledger["distribution"],
        "collectors": ledger["collectors"],
    });
    Json(answer).into_response()
}

async fn expire(State(probe): Shared, RawQuery(query): RawQuery) -> Response {
    let query = match of_parameters::<FlowQuery>(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(said) => return refused(StatusCode::BAD_REQUEST, said),
    };
    match tokio::task::spawn_blocking(move || probe.expire(&query)).await {
        Ok(Ok(expired)) => Json(Expired { expired }).into_response(),
        Ok(Err(error)) => refused(StatusCode::BAD_REQUEST, format!("{error:#}")),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn show_config(State(probe): Shared, _: NoParameters) -> Response {
    let (reply, answer) = bounded(1);
    match probe.order(Order::ShowConfig(reply), answer).await {
        Some(settings) => Json(json!({ "settings": settings })).into_response(),
        None => busy(),
    }
}

async fn reload(State(probe): Shared, RawQuery(query): RawQuery) -> Response {
    let query = match of_parameters::<ReloadQuery>(query.as_deref().unwrap_or_default()) {
        Ok(query) => query,
        Err(said) => return refused(StatusCode::BAD_REQUEST, said),
    };
    let (reply, answer) = bounded(1);
    let is_dry = query.dry_run;
    let order = Order::Reload(ReloadRequest { is_dry, reply });
    match probe.order(order, answer).await {
        Some(Ok(reloaded)) => Json(reloaded).into_response(),
        Some(Err(Unchanged { why })) => refused(StatusCode::CONFLICT, why.join("\n")),
        None => busy(),
    }
}

async fn stop(State(probe): Shared, _: NoParameters) -> Response {
    // Where an order waits already, the probe stops by that.
    let _ = probe.orders.try_send(Order::Stop);
    (StatusCode::ACCEPTED, Json(json!({ "stopping": true }))).into_response()
}

fn busy() -> Response {
    let said = "the probe is ending, or too many requests are under way; try again later";
    refused(StatusCode::SERVICE_UNAVAILABLE, said.to_owned())
}

fn too_many() -> Response {
    refused(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{LISTINGS_MAX} listings of flows are under way already; try again later"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Command;
    use std::collections::BTreeSet;

    /// The names in backquotes.
    fn quoted(text: &str) -> BTreeSet<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    fn parameters<T: Args>() -> BTreeSet<String> {
        let command = T::augment_args(Command::new("parameters"));
        let names = command
            .get_arguments()
            .filter_map(|one| one.get_long().map(str::to_owned));
        names.collect()
    }

    fn page() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONTROL.md");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_page_lists_every_path_with_its_parameters() {
        let page = page();
        let rows: Vec<Vec<_>> = page
            .lines()
            .filter(|line| line.starts_with("| `GET`") || line.starts_with("| `POST`"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let documented: Vec<_> = rows
            .iter()
            .map(|row| (row[1].trim_matches('`'), row[2].trim_matches('`'), row[3]))
            .collect();
        let served: Vec<_> = PATHS
            .iter()
            .map(|one| (one.method, one.path, one.what))
            .collect();
        assert_eq!(documented, served);
        let of_flows = parameters::<FlowQuery>();
        for row in rows {
            let mut named = quoted(row[4]);
            if row[4].contains("those of flows") {
                named.extend(of_flows.clone());
            }
            let expected = match row[2].trim_matches('`') {
                "/flows" => parameters::<FlowsQuery>(),
                "/top" => parameters::<TopQuery>(),
                "/expire" => of_flows.clone(),
                "/reload" => parameters::<ReloadQuery>(),
                _ => BTreeSet::new(),
            };
            assert_eq!(named, expected, "{row:?}");
        }
    }

    #[test]
    fn the_page_lists_every_parameter_of_flows() {
        let page = page();
        let table = page.split("| Parameter | Flows |").nth(1).unwrap();
        let rows = table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let names = rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap()));
        assert_eq!(names.collect::<BTreeSet<_>>(), parameters::<FlowQuery>());
    }
}
