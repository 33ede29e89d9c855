//! Where a probe can be asked: metrics and the control socket.

use super::arguments::Arguments;
use crate::control::{self, Order};
use crate::http::{Access, Endpoint, Listener, Server};
use crate::metrics::{self, Reloads};
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::time::Duration;
use xdprobe_pipeline::Pipeline;

/// How long a scrape may last, and an answer of the control socket: a listing may have millions of
/// lines.
const SCRAPE_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(3_600);

/// Where the probe can be asked, bound before anything else starts.
pub struct Listeners {
    metrics: Option<Listener>,
    control: Option<Listener>,
}

impl Listeners {
    /// Binds what these options ask for.
    ///
    /// # Errors
    ///
    /// If an address that they name cannot be bound.
    pub fn bind(arguments: &Arguments) -> anyhow::Result<Self> {
        const METRICS: Access = Access {
            mode: 0o666,
            what: "metrics",
            option: "--metrics",
        };
        let metrics = arguments.metrics.as_ref();
        let metrics = metrics.map(|address| address.listen(&METRICS));
        let control = match arguments.read {
            Some(_) => None,
            None => {
                let socket = arguments.control.clone().unwrap_or_default();
                let name = arguments.interface.join("+");
                socket.listen(&name, arguments.control_group.as_deref())?
            }
        };
        Ok(Self {
            metrics: metrics.transpose()?,
            control,
        })
    }

    /// Serves what is asked for; nothing if there is no listener.
    pub fn serve(
        self,
        pipeline: &Arc<Pipeline>,
        orders: Sender<Order>,
        reloads: &Arc<Reloads>,
    ) -> anyhow::Result<Option<Server>> {
        let metrics = self.metrics.map(|listener| {
            tracing::info!("metrics on {listener}{}", metrics::PATH);
            Endpoint {
                name: "metrics",
                listener,
                pages: metrics::pages(pipeline.boards().clone(), Arc::clone(reloads)),
                connection_max: SCRAPE_MAX,
            }
        });
        let control = self.control.map(|listener| {
            tracing::info!("control socket {listener}");
            Endpoint {
                name: "control socket",
                listener,
                pages: control::pages(Arc::clone(pipeline), orders),
                connection_max: ANSWER_MAX,
            }
        });
        let endpoints: Vec<_> = metrics.into_iter().chain(control).collect();
        if endpoints.is_empty() {
            return Ok(None);
        }
        Server::start(endpoints, &pipeline.boards().deaths).map(Some)
    }
}
