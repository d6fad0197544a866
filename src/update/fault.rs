//! Updates and recoveries that go wrong at one of their file operations. For fuzzing: no part of the interface.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use crate::disk::{Call, Disk, Watch};
use crate::error::Result;
use crate::patch::Patch;
use crate::tensors::Control;
use crate::update::recover::recover_on;
use crate::update::update::update_on;
use crate::update::{Recovery, UpdateOptions, UpdateReport};

/// What goes wrong, and when.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Number of the operation, from 0.
    pub at: u64,
    /// The process is killed before it; else it alone fails.
    pub kills: bool,
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    calls: AtomicU64,
}

impl Watch for Faulty {
    fn before(&self, _: Call<'_>) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Relaxed);
        if call == self.fault.at || call > self.fault.at && self.fault.kills {
            return Err(io::Error::other("a fault was injected"));
        }
        Ok(())
    }
}

impl Fault {
    fn disk(self) -> Disk {
        Disk::watched(Arc::new(Faulty { fault: self, calls: AtomicU64::new(0) }))
    }

    /// [`Patch::update`], with this fault.
    ///
    /// # Errors
    /// As `Patch::update`.
    pub fn update(
        self,
        patch: &Patch,
        path: &Path,
        options: UpdateOptions,
        control: Control<'_>,
    ) -> Result<UpdateReport> {
        let chain = patch.as_chain()?;
        update_on(&self.disk(), path, &chain, options, control)
    }

    /// [`recover`](crate::update::recover()), with this fault.
    ///
    /// # Errors
    /// As `recover`.
    pub fn recover(self, path: &Path, control: Control<'_>) -> Result<Recovery> {
        recover_on(&self.disk(), path, control)
    }
}
