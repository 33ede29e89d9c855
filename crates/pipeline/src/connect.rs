//! From the destinations that an operator names to outlets of the exporter.

use crate::error::StartError;
use crate::flow_file::FlowFile;
use crate::own_export::OwnExport;
use crate::plan::{Destination, ExportPlan};
use crate::regime::Regime;
use crate::resolver::{NamedCollector, Resolver};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use xdprobe_collect::output::{FileId, OutputError, Replace, Target};
use xdprobe_export::{
    CollectorAddress, CollectorId, DatagramOutlet, Distribution, Outlet, Transport, UdpTransport,
};

/// An outlet to a destination, and what is to be done once the exporter has it.
pub struct Connected {
    /// How records get there.
    pub outlet: Box<dyn Outlet>,
    /// The socket, where it is a collector over UDP.
    pub socket: Option<CollectorSocket>,
}

/// The socket of a collector over UDP.
pub struct CollectorSocket {
    name: CollectorAddress,
    /// None while no path to the collector is known.
    ends: Option<Ends>,
}

/// The ends of a socket that is connected to a collector.
struct Ends {
    /// The address that was resolved.
    address: SocketAddr,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Connected {
    /// Resolves and connects, or creates, a destination.
    ///
    /// # Errors
    ///
    /// Why records cannot get there.
    pub fn to(destination: &Destination, plan: &ExportPlan) -> Result<Self, StartError> {
        match destination {
            Destination::Collector(name) => Self::to_collector(name, plan),
            Destination::File(path) => {
                let file = FlowFile::create(target(path, plan)?, destination.to_string(), plan);
                let file = file.map_err(|error| StartError::File {
                    path: path.clone(),
                    error,
                })?;
                Ok(Self {
                    outlet: Box::new(file),
                    socket: None,
                })
            }
        }
    }

    /// Each of the plan's destinations. One that is a collector without a route or an address at
    /// present is connected later: by a live probe, since the network of a host that boots comes up
    /// in its own time; and by any probe whose other collectors take its records meanwhile.
    ///
    /// # Errors
    ///
    /// Why records cannot get to one of them.
    pub fn to_all(plan: &ExportPlan, regime: Regime) -> Result<Vec<Self>, StartError> {
        let connected: Vec<_> = plan
            .destinations
            .iter()
            .map(|to| Self::to(to, plan))
            .collect();
        let has_other =
            plan.distribution == Distribution::Failover && connected.iter().any(Result::is_ok);
        let can_wait = regime.is_live() || has_other;
        let or_later = |(to, connected): (&Destination, Result<Self, StartError>)| match connected {
            Err(error) if can_wait && error.may_pass() => match to {
                Destination::Collector(name) => {
                    tracing::warn!(
                        "{error}; the probe tries again each second, and until then {name} gets \
                         no records"
                    );
                    Self::later(name, plan)
                }
                Destination::File(_) => Err(error),
            },
            connected => connected,
        };
        plan.destinations
            .iter()
            .zip(connected)
            .map(or_later)
            .collect()
    }

    fn to_collector(name: &CollectorAddress, plan: &ExportPlan) -> Result<Self, StartError> {
        let addresses = name.resolve().map_err(|error| StartError::Unresolved {
            name: name.clone(),
            error,
        })?;
        let transport = UdpTransport::connect(addresses[0], &plan.sockets);
        let transport = transport.map_err(|error| StartError::NoRoute {
            name: name.clone(),
            error,
        })?;
        let ends = Ends {
            address: addresses[0],
            local: transport.local(),
            peer: transport.peer(),
        };
        Self::over(transport, name, Some(ends), plan)
    }

    /// A collector that has no path yet.
    fn later(name: &CollectorAddress, plan: &ExportPlan) -> Result<Self, StartError> {
        let transport = Unconnected {
            mtu_max: plan.sockets.mtu,
        };
        Self::over(transport, name, None, plan)
    }

    fn over(
        transport: impl Transport + 'static,
        name: &CollectorAddress,
        ends: Option<Ends>,
        plan: &ExportPlan,
    ) -> Result<Self, StartError> {
        let outlet = DatagramOutlet::new(transport, plan.format, plan.datagrams);
        let outlet = outlet.map_err(|error| StartError::TooNarrow {
            name: name.clone(),
            error,
        })?;
        Ok(Self {
            outlet: Box::new(outlet),
            socket: Some(CollectorSocket {
                name: name.clone(),
                ends,
            }),
        })
    }
}

/// Checks every file that records are to go to, before anything is created: that it destroys
/// nothing, and is named once.
///
/// # Errors
///
/// What would be destroyed, or is named twice.
pub fn check_files(plan: &ExportPlan) -> Result<(), StartError> {
    let mut targets: Vec<(&Destination, Target)> = Vec::new();
    for destination in &plan.destinations {
        let Destination::File(path) = destination else {
            continue;
        };
        let target = target(path, plan)?;
        if let Some((first, _)) = targets.iter().find(|(_, other)| other.is_same(&target)) {
            return Err(StartError::SameFile {
                first: first.to_string(),
                second: destination.to_string(),
            });
        }
        targets.push((destination, target));
    }
    Ok(())
}

fn target(path: &Path, plan: &ExportPlan) -> Result<Target, OutputError> {
    let replace = if plan.overwrite {
        Replace::Anything
    } else {
        Replace::Nothing
    };
    let inputs: Vec<_> = plan
        .inputs
        .iter()
        .filter_map(|path| FileId::of_input(path))
        .collect();
    Target::check(path, replace, &inputs)
}

impl CollectorSocket {
    /// Registers the socket as that of collector `id`: its datagrams are excluded from metering. A
    /// collector without a path is connected from here on, and a name is resolved again.
    ///
    /// # Errors
    ///
    /// If there is no thread to do that on.
    pub fn register(
        self,
        id: CollectorId,
        own: &OwnExport,
        resolver: &mut Resolver,
    ) -> Result<(), StartError> {
        if let Some(Ends { local, peer, .. }) = self.ends {
            own.connected(id, local, peer);
            if self.name.is_an_address() {
                return Ok(());
            }
        }
        resolver.watch(NamedCollector {
            id,
            name: self.name,
            address: self.ends.map(|ends| ends.address),
        })
    }
}

/// Stands in for a socket until there is a path to the collector.
struct Unconnected {
    mtu_max: Option<u16>,
}

impl Transport for Unconnected {
    fn send(&mut self, _datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::NetworkUnreachable.into())
    }

    /// As if the path carried what Ethernet carries, over IPv6.
    fn payload_octets_max(&self) -> usize {
        const ETHERNET_MTU: u16 = 1500;
        const HEADERS: u16 = 40 + 8;
        let mtu = self.mtu_max.unwrap_or(ETHERNET_MTU).min(ETHERNET_MTU);
        usize::from(mtu.saturating_sub(HEADERS))
    }

    fn is_connected(&self) -> bool {
        false
    }
}
