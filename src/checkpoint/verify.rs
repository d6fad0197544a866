//! A patch checked without writing anything.

use crate::checkpoint::apply::source;
use crate::checkpoint::plan::Plan;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::patch::Patch;
use crate::tensors::target::{build, check_base, differing_tensor, explain};
use crate::tensors::Parallel;

/// Checks a patch beyond what [`Patch::open`] has checked, without writing anything.
///
/// Payloads that need no base are decoded. With a base, its digest is compared, the target is made
/// in memory, block by block, and its digests compared. With a target, its digests are compared with those of the patch.
///
/// # Errors
/// As [`apply`].
pub fn verify(
    patch: &Patch,
    base: Option<&Checkpoint>,
    target: Option<&Checkpoint>,
    parallel: Parallel<'_>,
) -> Result<()> {
    match base {
        Some(_) if patch.header().snapshot => {
            return Err(Error::misuse(format!(
                "{} is a snapshot: it has no base; leave the base out",
                patch.path().display()
            )));
        }
        Some(base) => {
            check_base(base, patch, parallel)?;
            let base = Some(base);
            let plan = explain(source(base), patch, parallel, Plan::new(base, patch))?;
            let made = build(&plan.tensors, source(base), patch, None, parallel);
            explain(source(base), patch, parallel, made.and_then(|()| plan.check_companions(patch)))?;
        }
        _ if patch.header().snapshot => {
            let plan = Plan::new(None, patch)?;
            build(&plan.tensors, None, patch, None, parallel)?;
        }
        _ => {
            let mut payload = Vec::new();
            for tensor in patch.tensors() {
                (0..tensor.blocks.len())
                    .try_for_each(|number| patch.decode_block(tensor, number, &mut payload).map(|_| ()))?;
            }
        }
    }
    if let Some(target) = target {
        let found = differing_tensor(target, patch, parallel, |tensor| tensor.end.and_then(|end| end.target))?;
        let expected = patch.footer().target;
        if found.checkpoint != expected {
            return Err(Error::TargetMismatch {
                tensor: found.tensor.map(|tensor| tensor.0),
                expected,
                found: found.checkpoint,
            });
        }
    }
    Ok(())
}
