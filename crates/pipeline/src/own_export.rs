//! The probe's own export datagrams, which it never meters: it would feed itself.
//!
//! The code that connects a socket to a collector registers it here, before anything is sent; every
//! worker is then posted the list of all such sockets. A worker recognizes the datagrams by both
//! addresses and both ports, behind whatever tags a mirrored link puts in front of them.

use crate::mailbox::{Postbox, Request};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use xdprobe_export::CollectorId;
use xdprobe_flow::OwnDatagrams;

/// The sockets that export goes through. Copies are the same.
#[derive(Clone, Default)]
pub struct OwnExport(Arc<Mutex<Sockets>>);

#[derive(Default)]
struct Sockets {
    /// Each collector's.
    datagrams: BTreeMap<CollectorId, OwnDatagrams>,
    /// Workers that may see them.
    workers: Vec<Postbox>,
}

impl OwnExport {
    /// From here on `collector` is sent to from `local` to `peer`. Over IPv6 nothing is metered in
    /// any case.
    pub fn connected(&self, collector: CollectorId, local: SocketAddr, peer: SocketAddr) {
        self.change(|datagrams| {
            datagrams.remove(&collector);
            if let Some(own) = OwnDatagrams::between(local, peer) {
                datagrams.insert(collector, own);
            }
        });
    }

    /// From here on `collector` is no longer sent to.
    pub fn disconnected(&self, collector: CollectorId) {
        self.change(|datagrams| {
            datagrams.remove(&collector);
        });
    }

    /// Posts changes to one more worker from here on; returns the datagrams as they are.
    pub fn subscribe(&self, worker: Postbox) -> Arc<[OwnDatagrams]> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.workers.push(worker);
        sockets.list()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<CollectorId, OwnDatagrams>)) {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sockets.datagrams);
        let list = sockets.list();
        for worker in &sockets.workers {
            worker.post_or_wait(Request::OwnExport(Arc::clone(&list)));
        }
    }
}

impl Sockets {
    fn list(&self) -> Arc<[OwnDatagrams]> {
        self.datagrams.values().copied().collect()
    }
}
