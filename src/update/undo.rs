//! The way for want of room: the bytes that change are overwritten, and a patch that leads back is on
//! disk before.
//!
//! That patch overwrites: applied to bytes of which some are old, some new and some torn, it gives the
//! old ones.

use std::io::{BufWriter, Write};

use crate::checkpoint::files::write_header;
use crate::coding::Coding;
use crate::disk::staged::failed;
use crate::disk::Sequential;
use crate::error::{Error, Made, Result};
use crate::limits::Limits;
use crate::patch::Patch;
use crate::stream::{BaseSide, EncoderOptions, Session};
use crate::tensors::chain_end::ChainEnd;
use crate::tensors::diagnose::explain;
use crate::tensors::diff::encode_tensors;
use crate::tensors::target::{build, Output};
use crate::tensors::{Control, TensorSource};
use crate::update::commit::Staging;
use crate::update::pending::{Member, Pending, BACK};
use crate::update::update::Update;
use crate::wire::{Action, Footer};
use crate::word::ValueForm;

impl Update<'_> {
    /// Why the bytes cannot be overwritten where they are: something moves.
    pub fn cannot_overwrite(&self) -> Option<String> {
        let mut tensors = self.chain.patches().iter().flat_map(Patch::tensors);
        let moved = tensors
            .find(|tensor| tensor.header.action != Action::Patched)
            .map(|tensor| &tensor.header);
        if let Some(tensor) = moved {
            return Some(format!("tensor '{}' is {}", tensor.name, tensor.action.name()));
        }
        let files = self.base.files.iter().map(|file| (&file.name, file.header.bytes.len()));
        if !files.eq(self.plan.files.iter().map(|file| (&file.name, file.header.bytes.len()))) {
            return Some("the tensor files, or the sizes of their headers, change".into());
        }
        let mut tensors = self.plan.tensors.iter();
        let moved = tensors
            .find(|tensor| self.base.place(tensor.name) != Some((tensor.file, tensor.offset)));
        moved.map(|tensor| format!("tensor '{}' moves in its file", tensor.name))
    }

    /// Writes the patch that leads back, synced. Every byte of base and target is digested on the way.
    pub fn stage_undo(&self, staging: &Staging, control: Control<'_>) -> Result<Vec<Member>> {
        let path = self.room.directory.join(staging.mark.file(BACK));
        let file = self.disk.create_private(&path).map_err(failed("creating", &path))?;
        staging.lock(&file)?;
        self.keep_least_access(&file)?;
        let leaves = self.chain.first().header().block_leaves;
        let options = EncoderOptions::default()
            .with_coding(Coding::Flat)
            .with_values(ValueForm::Overwrite)
            // Read back under the default limits.
            .with_block_leaves(leaves.min(Limits::default().block_leaves))
            .with_lineage(self.chain.lineage().inverted());
        let out = BufWriter::with_capacity(1 << 18, Sequential { file: &file, offset: 0 });
        let mut session = Session::new(out, options, BaseSide::Hashed)?;
        for (base, target) in self.base.files.iter().zip(&self.plan.files) {
            let same = base.header.bytes == target.header.bytes;
            write_header(&mut session, &base.name, &base.header.bytes, same)?;
        }
        let target = ChainEnd::new(self.chain, Some(self.base))?;
        // The encoder does not know what file it writes to.
        let of_journal = |error| match error {
            Error::Io { path: None, source, .. } => Error::io_at("writing", &path, source),
            other => other,
        };
        encode_tensors(&mut session, Some(&target), self.base, false, control)
            .map_err(of_journal)?;
        let (mut out, summary) = session.finish().map_err(of_journal)?;
        let written = out.flush();
        drop(out);
        written.and_then(|()| file.sync()).map_err(failed("writing", &path))?;
        staging.hold(file);
        self.base.check_unchanged()?;
        self.check_ends(&summary.footer, control)?;
        Ok(self.members(|_| None))
    }

    /// That the patch on disk leads from the target to the base.
    fn check_ends(&self, back: &Footer, control: Control<'_>) -> Result<()> {
        let (first, last) = (self.chain.first().footer(), self.chain.last());
        let expected = last.footer().target;
        if back.base == Some(expected) && Some(back.target) == first.base {
            return Ok(());
        }
        let found = back.base.unwrap_or_default();
        let wrong = Err(last.wrong_result(Made::Checkpoint, expected, found));
        explain(Some(self.base), self.chain, control, wrong)
    }

    /// Overwrites what changes, synced. The target is proved again by reading it back.
    pub fn overwrite(&self, pending: &Pending, control: Control<'_>) -> Result<()> {
        for (at, file) in self.plan.files.iter().enumerate() {
            let old = &self.base.files[at];
            if file.header.bytes != old.header.bytes {
                let file = old.disk_file();
                file.write_all_at(&self.plan.files[at].header.bytes[8..], 8)
                    .map_err(failed("writing", file.path()))?;
            }
        }
        let files: Vec<_> = self.base.files.iter().map(|file| Some(&**file.disk_file())).collect();
        let output = Output { files: &files, in_place: true };
        build(&self.plan.tensors, Some(self.base), self.chain, Some(output), control)?;
        self.base.files.iter().try_for_each(|file| pending.sync(file.disk_file()))?;
        match pending.prove_target(control)? {
            Ok(()) => Ok(()),
            Err(what) => Err(Error::Internal(format!("what was written reads otherwise: {what}"))),
        }
    }
}
