//! What tests and benches stand on, and nothing that is shipped: traffic whose truth is known ([`send`]), and frames and
//! capture files by hand ([`frames`]).

pub mod frames;
pub mod interface;
pub mod send;
