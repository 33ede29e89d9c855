//! The control socket: looking into a running probe, and changing it.
//!
//! It is HTTP on a Unix socket. `GET` looks, and is for those who may open the socket; `POST`
//! changes, and is for the socket's owner and root. docs/CONTROL.md lists the paths.
//!
//! | File | Contents |
//! |---|---|
//! | `probe` | what requests reach, and what the program is asked |
//! | `routes` | the paths, and who may use them |
//! | `query` | which flows a request is about |
//! | `flows` | resident flows, one by one |
//! | `top` | resident flows, added up |
//! | `queues` | each worker |
//! | `socket` | where the socket is |
//! | `client` | requests to a running probe |

mod client;
mod flows;
mod probe;
mod query;
mod queues;
mod routes;
mod socket;
mod top;

pub use client::{Client, Refusal};
pub use flows::{FlowLine, FlowsQuery, InterfaceNames};
pub use probe::{Order, ReloadRequest, Reloaded, Unchanged};
pub use query::{FlowQuery, of_parameters, to_parameters};
pub use queues::{QueueLine, Queues};
pub use routes::{Expired, ReloadQuery, pages};
pub use socket::ControlSocket;
pub use top::{By, Sum, Top, TopQuery};
