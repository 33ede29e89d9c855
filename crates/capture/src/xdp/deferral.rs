//! Interrupts that are deferred while readers poll the card themselves (`--busy-poll`).
//!
//! Each NAPI instance of the interface is set by itself where the kernel can do that, and the
//! device elsewhere. A process that is killed cannot undo it. So the time that is set is one that
//! nothing else sets, by which the next start recognizes and ends what a killed one left.

use crate::interface::{Deferral, Interface, Napis};
use std::io;

/// Deferred interrupts; as before once this is dropped.
pub struct Deferred {
    interface: Interface,
    /// What the device had before, where it was set as a whole.
    device_before: Option<Deferral>,
    /// NAPI instances that had settings of their own, which differed from the device's.
    napis_before: Vec<(u32, Deferral)>,
}

/// What is set: after 2 polls without a frame, 0.2 ms apart, interrupts come back. The last digits
/// are the mark.
const OURS: Deferral = Deferral {
    polls: 2,
    timeout_ns: 200_017,
};

impl Deferred {
    /// Defers the interrupts of an interface.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is set then.
    pub fn on(interface: &Interface) -> io::Result<Self> {
        let mut this = Self {
            interface: interface.clone(),
            device_before: None,
            napis_before: Vec::new(),
        };
        let Some(napis) = Napis::of(interface.index) else {
            let before = interface.deferral().ok_or(io::ErrorKind::NotFound)?;
            interface.set_deferral(OURS)?;
            this.device_before = Some(before);
            return Ok(this);
        };
        let device = interface.deferral();
        let listed = napis.list()?;
        let own = listed.iter().filter(|napi| Some(napi.deferral) != device);
        this.napis_before = own.map(|napi| (napi.id, napi.deferral)).collect();
        for napi in listed {
            // What was set so far is undone as this is dropped.
            napis.set(napi.id, OURS)?;
        }
        Ok(this)
    }

    /// Defers the interrupts of NAPI instances that are new, since the program was attached again.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn renew(&self) -> io::Result<()> {
        if self.device_before.is_some() {
            return Ok(());
        }
        let Some(napis) = Napis::of(self.interface.index) else {
            return Ok(());
        };
        for napi in napis.list()? {
            if napi.deferral != OURS {
                napis.set(napi.id, OURS)?;
            }
        }
        Ok(())
    }

    fn undo(&self) -> io::Result<()> {
        if let Some(before) = self.device_before {
            return self.interface.set_deferral(before);
        }
        let before = |id| {
            let own = self.napis_before.iter().find(|(napi, _)| *napi == id);
            own.map(|(_, before)| *before)
        };
        undo_napis(&self.interface, before)
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(
                "{}: the interrupts of its queues stay deferred by up to 0.4 ms ({error}): the \
                 next start of xdprobe on it undoes that",
                self.interface.name
            );
        }
    }
}

/// Ends what a killed process left deferred on an interface. No other probe can be at work on it:
/// call this with the program attached.
pub fn end_leftovers(interface: &Interface) {
    let name = &interface.name;
    let device = (interface.deferral() == Some(OURS)).then(|| {
        tracing::warn!(
            "{name}: a killed xdprobe left its interrupts deferred: they are set to the kernel's \
             default, not deferred"
        );
        interface.set_deferral(Deferral::default())
    });
    let ended = device
        .unwrap_or(Ok(()))
        .and_then(|()| undo_napis(interface, |_| None));
    if let Err(error) = ended {
        tracing::warn!("{name}: interrupts that a killed xdprobe left deferred stay so: {error}");
    }
}

/// Sets NAPI instances that are as we set them to what they had before, or else to what the device
/// has.
fn undo_napis(interface: &Interface, before: impl Fn(u32) -> Option<Deferral>) -> io::Result<()> {
    let Some(napis) = Napis::of(interface.index) else {
        return Ok(());
    };
    let device = interface.deferral().unwrap_or_default();
    for napi in napis.list()? {
        if napi.deferral == OURS {
            napis.set(napi.id, before(napi.id).unwrap_or(device))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn files(folder: &Path) -> [String; 2] {
        let files = ["napi_defer_hard_irqs", "gro_flush_timeout"];
        files.map(|file| {
            fs::read_to_string(folder.join(file))
                .unwrap()
                .trim()
                .to_owned()
        })
    }

    #[test]
    fn without_settings_of_napi_instances_the_device_is_set_and_what_a_killed_run_left_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let set = |polls: &str, timeout: &str| {
            fs::write(folder.join("napi_defer_hard_irqs"), polls).unwrap();
            fs::write(folder.join("gro_flush_timeout"), timeout).unwrap();
        };
        let ours = ["2", "200017"].map(str::to_owned);
        let interface = Interface::in_folder(folder);
        set("1\n", "100000\n");
        end_leftovers(&interface);
        let deferred = Deferred::on(&interface).unwrap();
        assert_eq!(files(folder), ours);
        drop(deferred);
        assert_eq!(files(folder), ["1", "100000"]);
        // A killed run runs no destructor.
        std::mem::forget(Deferred::on(&interface).unwrap());
        assert_eq!(files(folder), ours);
        end_leftovers(&interface);
        assert_eq!(files(folder), ["0", "0"]);
    }

    #[test]
    fn an_interface_without_these_settings_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Deferred::on(&Interface::in_folder(folder.path()));
        assert_eq!(missing.err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
