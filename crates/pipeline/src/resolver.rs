//! Collectors' names, resolved again and again on a thread of their own, since a resolver may take
//! its time; and collectors that had no path at the start, connected once they have one.
//!
//! While the address in use is among those of the name, nothing changes, in whatever order they
//! come. When it is not, a new socket is connected here and goes to the exporter; when the name has
//! no address at all, the old socket stays in use. A collector that was never connected is tried
//! each second.

use crate::error::StartError;
use crate::exporting::ExporterRequest;
use crate::own_export::OwnExport;
use crate::thread::Deaths;
use crossbeam_channel::{Receiver, SendError, Sender, after, bounded, never, select, tick};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use xdprobe_export::{CollectorAddress, CollectorId, SocketOptions, UdpTransport};

/// Resolves names on a thread, which starts with the first collector to watch.
pub struct Resolver {
    work: Work,
    interval: Duration,
    requests: Option<Sender<NameRequest>>,
    deaths: Deaths,
}

/// A collector that has a name rather than an address, or no path yet.
#[derive(Clone, Debug)]
pub struct NamedCollector {
    /// The collector.
    pub id: CollectorId,
    /// Its name.
    pub name: CollectorAddress,
    /// The address in use; none until it is connected.
    pub address: Option<SocketAddr>,
}

/// What the thread can be asked.
enum NameRequest {
    Watch(NamedCollector),
    Forget(CollectorId),
}

/// How long after an attempt to connect the next one is made.
const RETRY: Duration = Duration::from_secs(1);
/// Requests under way; the thread takes them between two names.
const REQUESTS_MAX: usize = 256;

impl Resolver {
    /// Resolves every `interval`; new sockets are set up by `sockets`, registered in `own`, and
    /// sent to `exporter`.
    pub fn new(
        interval: Duration,
        sockets: SocketOptions,
        own: OwnExport,
        exporter: Sender<ExporterRequest>,
        deaths: Deaths,
    ) -> Self {
        Self {
            work: Work {
                sockets,
                own,
                exporter,
            },
            interval,
            requests: None,
            deaths,
        }
    }

    /// Watches a collector from here on.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub fn watch(&mut self, collector: NamedCollector) -> Result<(), StartError> {
        let requests = match self.requests.take() {
            Some(requests) => requests,
            None => self.start()?,
        };
        // The thread ends with the exporter, which then needs no names any more.
        let _ = requests.try_send(NameRequest::Watch(collector));
        self.requests = Some(requests);
        Ok(())
    }

    /// Forgets a collector, if it is watched.
    pub fn forget(&self, id: CollectorId) {
        if let Some(requests) = &self.requests {
            let _ = requests.try_send(NameRequest::Forget(id));
        }
    }

    fn start(&self) -> Result<Sender<NameRequest>, StartError> {
        let (requests, arrived) = bounded(REQUESTS_MAX);
        let (work, interval) = (self.work.clone(), self.interval);
        // Not waited for at the end: it may be waiting for an answer that never comes.
        self.deaths
            .spawn("resolver", move || work.run(&arrived, interval))?;
        Ok(requests)
    }
}

/// What the thread works with.
#[derive(Clone)]
struct Work {
    sockets: SocketOptions,
    own: OwnExport,
    exporter: Sender<ExporterRequest>,
}

/// A name that is watched.
struct Watched {
    collector: NamedCollector,
    /// It had no address the last time.
    is_failing: bool,
}

impl Work {
    /// Works until the requests' other end is dropped, or the exporter has ended.
    fn run(self, requests: &Receiver<NameRequest>, interval: Duration) {
        let mut watched: Vec<Watched> = Vec::new();
        let due = tick(interval);
        loop {
            let is_waiting = watched.iter().any(|one| one.collector.address.is_none());
            let retry = if is_waiting { after(RETRY) } else { never() };
            select! {
                recv(requests) -> request => match request {
                    Ok(NameRequest::Watch(collector)) => {
                        watched.push(Watched { collector, is_failing: false });
                    }
                    Ok(NameRequest::Forget(id)) => watched.retain(|one| one.collector.id != id),
                    Err(_) => return,
                },
                recv(retry) -> _ => {
                    if self.connect_all(&mut watched).is_err() {
                        return;
                    }
                }
                recv(due) -> _ => {
                    let connected = |one: &&mut Watched| one.collector.address.is_some();
                    for one in watched.iter_mut().filter(connected) {
                        let way = self.resolve(one);
                        let id = one.collector.id;
                        if self.exporter.send(ExporterRequest::Resolved(id, way)).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Connects the collectors that have no path yet and now find one. Those that are addresses are
    /// then forgotten: they need no more.
    ///
    /// # Errors
    ///
    /// If the exporter has ended.
    fn connect_all(&self, watched: &mut Vec<Watched>) -> Result<(), SendError<ExporterRequest>> {
        for one in watched.iter_mut() {
            let NamedCollector { id, name, address } = &mut one.collector;
            if address.is_some() {
                continue;
            }
            let Ok(transport) = self.connect(name, address) else {
                continue;
            };
            tracing::info!("collector {name} is reached at {}", transport.peer());
            self.own.connected(*id, transport.local(), transport.peer());
            self.exporter
                .send(ExporterRequest::Connected(*id, transport))?;
        }
        watched.retain(|one| {
            let NamedCollector { name, address, .. } = &one.collector;
            address.is_none() || !name.is_an_address()
        });
        Ok(())
    }

    /// Connects to the first address of a name, and puts that into `address`.
    fn connect(
        &self,
        name: &CollectorAddress,
        address: &mut Option<SocketAddr>,
    ) -> io::Result<UdpTransport> {
        let first = name.resolve()?[0];
        let transport = UdpTransport::connect(first, &self.sockets)?;
        *address = Some(first);
        Ok(transport)
    }

    fn resolve(&self, watched: &mut Watched) -> io::Result<Option<UdpTransport>> {
        let way = self.way(&mut watched.collector);
        let NamedCollector { id, name, address } = &watched.collector;
        match &way {
            Ok(Some(transport)) => {
                tracing::info!("collector {name} is now at {}", transport.peer());
                self.own.connected(*id, transport.local(), transport.peer());
            }
            Ok(None) if watched.is_failing => {
                tracing::info!("collector {name} has an address again");
            }
            Err(error) if !watched.is_failing => {
                tracing::warn!(
                    "collector {name} cannot be resolved ({error}); its records still go to {}",
                    address.map_or_else(String::new, |address| address.to_string())
                );
            }
            Ok(None) | Err(_) => {}
        }
        watched.is_failing = way.is_err();
        way
    }

    /// A new socket to the collector, where its name no longer has the address in use.
    fn way(&self, collector: &mut NamedCollector) -> io::Result<Option<UdpTransport>> {
        let addresses = collector.name.resolve()?;
        if collector
            .address
            .is_some_and(|address| addresses.contains(&address))
        {
            return Ok(None);
        }
        let transport = UdpTransport::connect(addresses[0], &self.sockets)?;
        collector.address = Some(addresses[0]);
        Ok(Some(transport))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_once(name: &str, address: &str) -> Option<UdpTransport> {
        let (exporter, requests) = bounded(1);
        let interval = Duration::from_millis(1);
        let mut resolver = Resolver::new(
            interval,
            SocketOptions::default(),
            OwnExport::default(),
            exporter,
            Deaths::default(),
        );
        let collector = NamedCollector {
            id: CollectorId::FIRST,
            name: name.parse().unwrap(),
            address: Some(address.parse().unwrap()),
        };
        resolver.watch(collector).unwrap();
        match requests.recv().unwrap() {
            ExporterRequest::Resolved(id, way) => {
                assert_eq!(id, CollectorId::FIRST);
                way.unwrap()
            }
            _ => panic!("the resolver sends what it resolved"),
        }
    }

    #[test]
    fn an_address_that_the_name_still_has_is_kept_and_any_other_is_left() {
        assert!(resolve_once("127.0.0.1:2055", "127.0.0.1:2055").is_none());
        let moved = resolve_once("127.0.0.1:2055", "127.0.0.2:2055").unwrap();
        assert_eq!(moved.peer().to_string(), "127.0.0.1:2055");
    }
}
