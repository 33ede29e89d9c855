//! What tests and benches stand on, and nothing that is shipped: network namespaces with veth pairs in them
//! ([`namespace`]), traffic whose truth is known ([`send`]), and frames and capture files by hand ([`frames`]).

pub mod frames;
pub mod interface;
pub mod namespace;
pub mod send;
