//! Which companions an update changes, and which stay because they are someone's own.

use std::path::Path;

use crate::checkpoint::apply::FilePolicy;
use crate::checkpoint::companions::{OutCompanion, RemovedCompanion};
use crate::error::{Error, FileFault, Result};
use crate::tensors::{Deviation, FileNote};
use crate::update::pending::{content_of, Found};
use crate::update::record::Beside;
use crate::update::update::{number_of, Update};

impl Update<'_> {
    /// Finds the companions that change, each only if its bytes here are those of the base (R74).
    pub fn plan_companions(&mut self, policy: FilePolicy) -> Result<()> {
        let first = number_of(self.plan.files.len().max(self.base.files.len()));
        for (at, companion) in self.plan.companions.iter().enumerate() {
            let OutCompanion::Carried(carried) = companion else { continue };
            let (name, replaces) = (companion.name(), carried.replaces);
            let target = Found::File(carried.file.record.content().into());
            let place = self.room.directory.join(name);
            if name.contains('/') {
                return Err(refused_below(&place));
            }
            match content_of(&place)? {
                found if found == target => continue,
                found if found == Found::of(replaces.map(Into::into)) => {}
                // An index that leads elsewhere cannot stay.
                _ if policy == FilePolicy::Exact || self.plan.leads_to_tensors(name) => {
                    let what = format!("'{name}' is neither as in the base nor as in the target");
                    return Err(self.refused(what));
                }
                _ => {
                    self.file_notes.push(FileNote::new(name, Deviation::Own));
                    continue;
                }
            }
            self.check_replaceable(name)?;
            let number = first + number_of(self.companions.len());
            let base = replaces.map(Into::into);
            let target = Some(carried.file.record.content().into());
            let name = name.to_string();
            self.companions.push((Beside { name, base, target, number }, Some(at)));
        }
        for RemovedCompanion { name, content } in &self.plan.removed {
            // What a patch brought and another took away was never here.
            let Some(content) = content else { continue };
            if name.contains('/') {
                return Err(refused_below(&self.room.directory.join(name)));
            }
            self.check_replaceable(name)?;
            let (name, base) = (name.to_string(), Some((*content).into()));
            // Nothing takes its name.
            self.companions.push((Beside { name, base, target: None, number: 0 }, None));
        }
        self.file_notes.sort_unstable();
        match self.file_notes.iter().find(|note| note.deviation != Deviation::Extra) {
            // In a new place it would be left behind; here it would stay.
            Some(note) if policy == FilePolicy::Exact => Err(Error::bad_file(
                &self.room.directory.join(&note.name),
                FileFault::OtherCompanion,
            )),
            _ => Ok(()),
        }
    }

    fn check_replaceable(&self, name: &str) -> Result<()> {
        if self.disk.may_replace(&self.room.directory.join(name)) {
            return Ok(());
        }
        Err(self.refused(format!("only its owner may replace '{name}' in a sticky directory")))
    }
}

/// The journal is of the files of one directory.
pub(super) fn refused_below(path: &Path) -> Error {
    Error::NotInPlace {
        path: Some(path.into()),
        what: "it changes, and lies in a subdirectory".into(),
    }
}
