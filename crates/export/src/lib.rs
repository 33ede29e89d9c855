//! The exporting process.
#![forbid(unsafe_code)]

pub mod v5;
