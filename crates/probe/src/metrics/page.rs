//! `/metrics`, `/healthz` and `/readyz`.

use super::reloads::Reloads;
use super::sheet::Sheet;
use crate::http::text;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use std::sync::{Arc, Mutex, PoisonError};
use xdprobe_pipeline::readiness::not_ready;
use xdprobe_pipeline::{Boards, Snapshot};

/// The page for Prometheus.
pub const PATH: &str = "/metrics";

/// How long a snapshot serves: the kernel is asked for its counts at most this often, in ms.
const FRESH_MS: u64 = 1_000;

/// The pages about what is published on the boards.
pub fn pages(boards: Boards, reloads: Arc<Reloads>) -> Router {
    let page = Arc::new(Mutex::new(Page {
        sheet: Sheet::new(),
        boards,
        reloads,
        snapshot: None,
    }));
    Router::new()
        .route(PATH, get(metrics))
        .route("/healthz", get(|| async { ok("ok\n".to_owned()) }))
        .route("/readyz", get(readiness))
        .method_not_allowed_fallback(|| async {
            let said = "only GET and HEAD are supported\n".to_owned();
            text(StatusCode::METHOD_NOT_ALLOWED, said)
        })
        .fallback(|| async {
            let said = "expected /metrics, /healthz or /readyz\n".to_owned();
            text(StatusCode::NOT_FOUND, said)
        })
        .with_state(page)
}

type Shared = State<Arc<Mutex<Page>>>;

async fn metrics(State(page): Shared) -> Response {
    let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
    page.refresh();
    let Page {
        sheet,
        snapshot,
        reloads,
        ..
    } = &mut *page;
    ok(snapshot
        .as_ref()
        .map(|snapshot| sheet.render(snapshot, reloads))
        .unwrap_or_default())
}

async fn readiness(State(page): Shared) -> Response {
    let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
    match not_ready(page.refresh()) {
        reasons if reasons.is_empty() => ok("ready\n".to_owned()),
        reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

fn ok(said: String) -> Response {
    text(StatusCode::OK, said)
}

/// What is served, from a snapshot that is at most a second old.
struct Page {
    sheet: Sheet,
    boards: Boards,
    reloads: Arc<Reloads>,
    snapshot: Option<Snapshot>,
}

impl Page {
    fn refresh(&mut self) -> &Snapshot {
        let fresh_from_ms = self.boards.uptime_ms().saturating_sub(FRESH_MS);
        let kept = self
            .snapshot
            .take()
            .filter(|kept| kept.uptime_ms > fresh_from_ms);
        self.snapshot
            .insert(kept.unwrap_or_else(|| self.boards.snapshot()))
    }
}
