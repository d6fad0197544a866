//! Two checkpoints to a patch.

use std::io::Write;

use crate::checkpoint::files::write_files;
use crate::checkpoint::index::leads_to_tensors;
use crate::checkpoint::layout::{read_index, Layout, LeftOut, Reason};
use crate::checkpoint::names::{name_tensors, SameTensor};
use crate::checkpoint::portable::{is_portable, Taken};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, FileFault, Result, Visible};
use crate::stream::Session;
use crate::tensors::diff::encode_tensors;
use crate::tensors::{Control, DiffOptions, DiffReport, TensorSource};

/// Refuses tensor files that not every receiver could hold; companions are left out by themselves.
fn check_names(target: &Checkpoint) -> Result<()> {
    let mut taken = Taken::default();
    for file in &target.files {
        if !is_portable(&file.name) {
            return Err(Error::bad_file(file.path(), FileFault::Name(file.name.clone())));
        }
        taken.take(&file.name).map_err(|other| {
            let fault = FileFault::SameName { name: file.name.clone(), other };
            Error::bad_file(file.path(), fault)
        })?;
    }
    Ok(())
}

/// Refuses a choice of companions with which readers would not take the same files for tensors: where one
/// of two indexes is left out, the other counts. The names of the tensors stay, too.
fn check_roles(target: &Checkpoint) -> Result<()> {
    let leads = |out: &LeftOut| leads_to_tensors(&out.name, true);
    // Otherwise it was read as others will read it.
    if !target.is_directory || !target.left_out().iter().any(leads) {
        return Ok(());
    }
    let tensors = target.files.iter().map(|file| file.name.clone());
    let companions = target.companions.iter().map(|companion| companion.name.clone());
    let listed = tensors.chain(companions).map(|name| (name, ())).collect();
    let refused = |what: String| Err(Error::bad_file(target.path(), FileFault::Refused(what)));
    let layout = Layout::of(target.path(), listed, |index| read_index(target.path(), index));
    let due = "include index, model_index.json and modules.json";
    let layout = match layout {
        Err(Error::BadFile { fault, .. }) => {
            return refused(format!(
                "without what is left out it is no checkpoint: {fault}; {due}"
            ));
        }
        layout => layout?,
    };
    if let Some(part) = layout.left_out.iter().find(|out| out.reason == Reason::Below) {
        let part = Visible(&part.name);
        return refused(format!("that '{part}' is a part of the model is said by no file; {due}"));
    }
    let same = layout.tensors.iter().map(|(name, ())| name);
    if !same.eq(target.files.iter().map(|file| &file.name)) || !layout.left_out.is_empty() {
        let what = "an index that did not count does, without those that are left out; \
                    remove it, or leave it out too";
        return refused(what.into());
    }
    let mut headers: Vec<_> = target.files.iter().map(|file| file.header.clone()).collect();
    let files = target.files.iter().map(|file| file.name.as_str());
    let named = name_tensors(&mut files.zip(&mut headers).collect::<Vec<_>>(), &layout.names);
    let before = target.files.iter().flat_map(|file| &file.header.tensors);
    let mut now = headers.iter().flat_map(|header| &header.tensors).zip(before);
    let other = match named {
        Err(SameTensor { tensor, .. }) => Some(tensor),
        Ok(()) => now.find(|(now, before)| now.name != before.name).map(|(_, it)| it.name.clone()),
    };
    other.map_or(Ok(()), |tensor| {
        refused(format!("what the name of tensor '{tensor}' is due to is left out"))
    })
}

/// Writes the patch that leads from `base` to `target`; without a base, a snapshot.
///
/// The bytes depend on the checkpoints and the options only, not on the number of threads.
///
/// # Errors
/// [`Error::Misuse`] for options that readers would refuse, [`Error::BadFile`] for a tensor file whose
/// name not every system can hold, [`Error::Io`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let write = |name: &str, data: &[u8; 3]| {
/// #     let json = br#"{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
/// #     let path = dir.path().join(name);
/// #     std::fs::write(&path, [&53u64.to_le_bytes()[..], json, data].concat()).unwrap();
/// #     path
/// # };
/// # let (base, target, out) = (write("base", b"abc"), write("target", b"abd"), dir.path().join("out"));
/// use pulse::checkpoint::{diff, ApplyOptions, DiffOptions};
/// use pulse::tensors::Control;
/// use pulse::{Checkpoint, Limits, Patch};
/// let (base, target) = (Checkpoint::open(&base)?, Checkpoint::open(&target)?);
/// let patch_path = dir.path().join("step.pulse");
/// let file = std::fs::File::create(&patch_path).unwrap();
/// let report = diff(Some(&base), &target, file, DiffOptions::default(), Control::default())?;
/// assert_eq!(report.summary.footer.changes, 1);
///
/// let patch = Patch::open(&patch_path, Limits::default())?;
/// patch.apply(Some(&base), &out, ApplyOptions::default(), Control::default())?;
/// assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(target.path()).unwrap());
/// # Ok::<(), pulse::Error>(())
/// ```
pub fn diff(
    base: Option<&Checkpoint>,
    target: &Checkpoint,
    out: impl Write,
    options: DiffOptions,
    control: Control<'_>,
) -> Result<DiffReport> {
    check_names(target)?;
    check_roles(target)?;
    let sample = options.sample;
    let base_side = options.base_side(base.is_some())?;
    let mut session = Session::new(out, options.encoder, base_side)?;
    // What a reader would refuse in a name is not the caller's fault here.
    let refuse = |error| match error {
        Error::Misuse(what) => Error::bad_file(target.path(), FileFault::Refused(what)),
        other => other,
    };
    let (carried, removed) = write_files(&mut session, base, target).map_err(refuse)?;

    let base = base.map(|base| base as &dyn TensorSource);
    let found = encode_tensors(&mut session, base, target, sample, control).map_err(refuse)?;
    let (_, summary) = session.finish()?;
    let target_file_bytes = target.file_bytes();
    Ok(DiffReport { target_file_bytes, carried, removed, ..found.report(summary) })
}
