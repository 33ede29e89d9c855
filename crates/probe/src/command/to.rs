//! Which probe a command is for.

use crate::control::Client;
use clap::Args;
use std::path::PathBuf;

/// Which probe is asked.
#[derive(Args, Clone, Debug)]
pub struct To {
    /// Control socket of the probe [default: that of the only running probe]
    #[arg(long, global = true, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl To {
    /// A client of the probe.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.control.as_deref())
    }
}
