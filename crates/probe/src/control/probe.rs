//! The probe, as requests reach it, and what it is asked beyond the pipeline.

use super::query::FlowQuery;
use crossbeam_channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;
use xdprobe_pipeline::Pipeline;
use xdprobe_pipeline::flow::{FlowRecord, Interfaces};

/// The probe, as requests reach it.
pub struct Probe {
    /// Its handle.
    pub pipeline: Arc<Pipeline>,
    /// Where orders go that the program carries out.
    pub orders: Sender<Order>,
    /// Listings that may be under way.
    pub listings: Arc<Semaphore>,
    /// Sums that may be under way: they wait for no reader.
    pub sums: Arc<Semaphore>,
}

impl Probe {
    /// Calls `each` with the resident flows that a query is about and their interfaces, until it
    /// returns false. `interface` is the ifIndex of the query's interface.
    pub fn visit(
        &self,
        query: &FlowQuery,
        interface: Option<u16>,
        each: &mut impl FnMut(&FlowRecord, Interfaces) -> bool,
    ) {
        let details = self.pipeline.details();
        let points = details.points.load();
        let flows = self.pipeline.flows(&query.filter(None));
        while let Ok(batch) = flows.batches().recv() {
            for record in &batch.flows {
                let interfaces = points.interfaces_of(record.key.point);
                let is_meant = interface
                    .is_none_or(|index| [interfaces.input, interfaces.output].contains(&index));
                if is_meant && !each(record, interfaces) {
                    return;
                }
            }
            flows.give_back(batch);
        }
    }

    /// Has the program carry out an order, and waits for its answer; none if it does not take it.
    pub async fn order<T: Send + 'static>(&self, order: Order, answer: Receiver<T>) -> Option<T> {
        self.orders.try_send(order).ok()?;
        let answer = tokio::task::spawn_blocking(move || answer.recv().ok());
        answer.await.ok().flatten()
    }

    /// Expires the resident flows that a query is about, and returns how many they were.
    pub fn expire(&self, query: &FlowQuery) -> anyhow::Result<u64> {
        let expire = |point| self.pipeline.expire(&query.filter(point)).wait();
        let Some(interface) = query.interface()? else {
            return Ok(expire(None));
        };
        let details = self.pipeline.details();
        let points = details.points.load().numbers_with(interface);
        Ok(points.into_iter().map(|point| expire(Some(point))).sum())
    }
}

/// What the program is asked, beyond the pipeline.
pub enum Order {
    /// To stop.
    Stop,
    /// To read the configuration again.
    Reload(ReloadRequest),
    /// For its configuration, as JSON.
    ShowConfig(Sender<Value>),
}

/// A request to reload.
pub struct ReloadRequest {
    /// Only find out what would change.
    pub is_dry: bool,
    /// Where the answer goes.
    pub reply: Sender<Result<Reloaded, Unchanged>>,
}

/// What a reload changed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reloaded {
    /// Whether the changes were made: not in a dry run.
    pub applied: bool,
    /// Each key, with its old and new value.
    pub changed: Vec<Value>,
    /// The same, each as a line for people.
    pub text: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug)]
pub struct Unchanged {
    /// A line for each reason.
    pub why: Vec<String>,
}
