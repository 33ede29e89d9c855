//! The subcommands, one module each.

pub mod cat;
pub mod collect;
mod files;
pub mod print;
pub mod run;
pub mod usage;
