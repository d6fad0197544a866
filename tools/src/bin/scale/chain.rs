//! A receiver that is behind by several versions: all patches at once, beside one, and one after another.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::measure::{self, Run};
use crate::pair::{self, Layout, Versions};
use crate::Result;

/// Versions that it is behind.
const BEHIND: usize = 8;

/// Applies one patch, all at once, and one after another, so many times each, on two threads.
pub fn run(
    program: &Path,
    dir: &Path,
    layout: Layout,
    rounds: usize,
) -> Result<Vec<(String, Vec<Run>)>> {
    let versions = Versions::<{ BEHIND + 1 }>::create(dir, layout)?;
    let (base, out) = (versions.path(0), versions.dir.path().join("out.safetensors"));
    let patches: Vec<PathBuf> =
        (1..=BEHIND).map(|number| versions.dir.path().join(format!("{number}.pulse"))).collect();
    for (before, patch) in patches.iter().enumerate() {
        let pair = [versions.path(before), versions.path(before + 1)].map(PathBuf::into_os_string);
        let arguments = [vec!["diff".into()], pair.into(), vec!["-o".into(), patch.into()]];
        measure::program(program, &arguments.concat())?;
        if before > 0 {
            pair::remove(&versions.path(before))?;
        }
    }
    let apply = |base: &Path, patches: &[PathBuf], out: &Path| {
        pair::remove(out)?;
        let mut arguments: Vec<OsString> = vec!["apply".into(), base.into()];
        arguments.extend(patches.iter().map(OsString::from));
        arguments.extend(["-o".into(), out.into()]);
        arguments.extend(["--quiet", "--threads", "2"].map(OsString::from));
        measure::program(program, &arguments)
    };
    let mut rows =
        [format!("{BEHIND} patches at once"), format!("{BEHIND} one by one"), "1 patch".into()]
            .map(|name| (name, Vec::new()));
    let beside = versions.dir.path().join("beside.safetensors");
    for _ in 0..=rounds {
        rows[0].1.push(apply(&base, &patches, &out)?);
        if std::fs::read(&out)? != std::fs::read(versions.path(BEHIND))? {
            return Err("several patches at once made another file".into());
        }
        rows[2].1.push(apply(&base, &patches[..1], &out)?);
        let mut all = Run::default();
        let mut held = base.clone();
        for (number, patch) in patches.iter().enumerate() {
            let next = if number % 2 == 0 { &out } else { &beside };
            all.seconds += apply(&held, std::slice::from_ref(patch), next)?.seconds;
            held.clone_from(next);
        }
        rows[1].1.push(all);
        pair::remove(&out)?;
        pair::remove(&beside)?;
    }
    Ok(rows.into())
}
