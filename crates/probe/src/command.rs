//! The subcommands, one module each.

pub mod cat;
pub mod collect;
pub mod config;
mod files;
pub mod print;
pub mod run;
pub mod usage;
