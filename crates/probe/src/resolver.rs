//! Collectors' names, resolved again and again on a thread of its own, since a resolver may take
//! its time.
//!
//! While a name's address is among those that it has, nothing changes, in whatever order they come.
//! When it is not, a new socket is connected here and goes to the exporter; when the name has no
//! address at all, the old one stays in force.

use crate::own_export::OwnExport;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use xdprobe_export::{CollectorAddress, SocketOptions, UdpTransport};

/// Resolves the names of collectors.
pub struct Resolver {
    /// Whose.
    pub collectors: Vec<NamedCollector>,
    /// How new sockets are set up.
    pub sockets: SocketOptions,
    /// Where new sockets are told of.
    pub own: OwnExport,
    /// Where they go.
    pub news: Sender<Resolution>,
}

/// A collector that has a name and not an address.
pub struct NamedCollector {
    /// Its number among all collectors.
    pub nth: usize,
    /// Its name.
    pub name: CollectorAddress,
    /// Where it is.
    pub address: SocketAddr,
    /// It had no address the last time.
    pub failing: bool,
}

/// What became of one collector's name.
pub struct Resolution {
    /// The collector's number.
    pub nth: usize,
    /// The way to it, where that is another one; or none, if its name has no address.
    pub way: Result<Option<UdpTransport>, io::Error>,
}

impl Resolver {
    /// Resolves all names every `interval`, until `stop` is closed or nobody takes the news any
    /// more.
    pub fn run(mut self, interval: Duration, stop: &Receiver<()>) {
        while stop.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
            for collector in &mut self.collectors {
                let way = collector.resolve(&self.sockets, &self.own);
                if self
                    .news
                    .send(Resolution {
                        nth: collector.nth,
                        way,
                    })
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}

impl NamedCollector {
    fn resolve(
        &mut self,
        sockets: &SocketOptions,
        own: &OwnExport,
    ) -> io::Result<Option<UdpTransport>> {
        let way = self.way(sockets);
        let Self { name, address, .. } = self;
        match &way {
            Ok(Some(transport)) => {
                tracing::info!("collector {name} is now at {}", transport.peer());
                own.connected(self.nth, transport.local(), transport.peer());
            }
            Ok(None) if self.failing => tracing::info!("collector {name} has an address again"),
            Err(error) if !self.failing => {
                tracing::warn!(
                    "collector {name} cannot be resolved ({error}); its records still go to {address}"
                );
            }
            Ok(None) | Err(_) => {}
        }
        self.failing = way.is_err();
        way
    }

    /// A new way to it, where its name no longer stands for the address that it had.
    fn way(&mut self, sockets: &SocketOptions) -> io::Result<Option<UdpTransport>> {
        let addresses = self.name.resolve()?;
        if addresses.contains(&self.address) {
            return Ok(None);
        }
        let transport = UdpTransport::connect(addresses[0], sockets)?;
        self.address = addresses[0];
        Ok(Some(transport))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    fn resolve_once(name: &str, address: &str) -> Resolution {
        let (news, arrivals) = bounded(1);
        let (stop, stopped) = bounded(1);
        let collector = NamedCollector {
            nth: 3,
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
            failing: false,
        };
        let own = OwnExport::default();
        let resolver = Resolver {
            collectors: vec![collector],
            sockets: SocketOptions::default(),
            own,
            news,
        };
        let thread = std::thread::Builder::new().name("resolver".to_owned());
        let thread = thread
            .spawn(move || resolver.run(Duration::from_millis(1), &stopped))
            .unwrap();
        let resolution = arrivals.recv().unwrap();
        drop((stop, arrivals));
        thread.join().unwrap();
        resolution
    }

    #[test]
    fn an_address_that_the_name_still_has_is_kept_and_any_other_is_left() {
        assert!(
            resolve_once("127.0.0.1:2055", "127.0.0.1:2055")
                .way
                .unwrap()
                .is_none()
        );
        let moved = resolve_once("127.0.0.1:2055", "127.0.0.2:2055");
        assert_eq!(
            (
                moved.nth,
                moved.way.unwrap().unwrap().peer().to_string().as_str()
            ),
            (3, "127.0.0.1:2055")
        );
    }
}
