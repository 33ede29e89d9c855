//! The subcommands, one module each.

pub mod cat;
pub mod collect;
pub mod config;
pub mod expire;
mod files;
pub mod print;
pub mod reload;
pub mod run;
pub mod show;
pub mod stop;
mod table;
mod to;
pub mod top;
pub mod usage;
