//! From the destinations that an operator names to outlets of the exporter.

use crate::error::StartError;
use crate::flow_file::FlowFile;
use crate::own_export::OwnExport;
use crate::plan::{Destination, ExportPlan};
use crate::resolver::{NamedCollector, Resolver};
use std::net::SocketAddr;
use xdprobe_export::{CollectorAddress, CollectorId, DatagramOutlet, Outlet, UdpTransport};

/// An outlet to a destination, and what is to be done once the exporter has it.
pub struct Connected {
    /// How records get there.
    pub outlet: Box<dyn Outlet>,
    /// The socket, where it is a collector over UDP.
    pub socket: Option<ConnectedSocket>,
}

/// A socket that is connected to a collector.
pub struct ConnectedSocket {
    name: CollectorAddress,
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
                let file = FlowFile::create(path, plan.format);
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
        let socket = ConnectedSocket {
            name: name.clone(),
            local: transport.local(),
            peer: transport.peer(),
        };
        let outlet = DatagramOutlet::new(transport, plan.format, plan.datagrams);
        let outlet = outlet.map_err(|error| StartError::TooNarrow {
            name: name.clone(),
            error,
        })?;
        Ok(Self {
            outlet: Box::new(outlet),
            socket: Some(socket),
        })
    }
}

impl ConnectedSocket {
    /// Registers the socket as that of collector `id`: its datagrams are excluded from metering,
    /// and its name, if it has one, is resolved again from here on.
    ///
    /// # Errors
    ///
    /// If there is no thread to resolve names on.
    pub fn register(
        self,
        id: CollectorId,
        own: &OwnExport,
        resolver: &mut Resolver,
    ) -> Result<(), StartError> {
        own.connected(id, self.local, self.peer);
        if self.name.is_an_address() {
            return Ok(());
        }
        resolver.watch(NamedCollector {
            id,
            name: self.name,
            address: self.peer,
        })
    }
}
