//! A snapshot, and what follows it, to weights in memory.

use std::collections::BTreeMap;
use std::io;

use crate::dtype::TensorSpec;
use crate::error::{Error, Result};
use crate::patch::{Chain, Patch};
use crate::tensors::builder::Builder;
use crate::tensors::diagnose::explain;
use crate::tensors::target::{hashed, pieces_in, prove, target_tensors, Done, OutTensor, Task};
use crate::tensors::Control;

impl Patch {
    /// The weights of a snapshot in new buffers, by name: made in parallel, in place, and proved. For
    /// buffers that are there already, [`apply_to`](Self::apply_to) takes a snapshot as well.
    ///
    /// Memory is that of the target, which [`Limits::target_bytes`](crate::Limits::target_bytes) and
    /// [`expansion`](crate::Limits::expansion) have bounded when the patch was opened.
    ///
    /// # Errors
    /// [`Error::NeedsBase`] if it is not a snapshot, [`Error::Corrupt`] or [`Error::WrongResult`] if the
    /// patch does not lead to its target, [`Error::Io`] if there is not enough memory,
    /// [`Error::Cancelled`].
    ///
    /// ```
    /// use pulse::dtype::{Dtype, TensorSpec};
    /// use pulse::tensors::{diff, Control, DiffOptions, TensorRef, Weights};
    /// use pulse::{Limits, Patch};
    /// let spec = TensorSpec::new(Dtype::U8, &[3])?;
    /// let weights: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
    /// let mut anchor = Vec::new();
    /// diff(None, &weights, &mut anchor, DiffOptions::default(), Control::default())?;
    /// let anchor = Patch::from_bytes(anchor, Limits::default())?;
    /// let found = anchor.to_memory(Control::default())?;
    /// assert_eq!(found["w"], (spec, b"abc".to_vec()));
    /// # Ok::<(), pulse::Error>(())
    /// ```
    pub fn to_memory(
        &self,
        control: Control<'_>,
    ) -> Result<BTreeMap<String, (TensorSpec, Vec<u8>)>> {
        self.as_chain()?.to_memory(control)
    }
}

impl Chain<'_> {
    /// The weights at the end of a chain that starts with a snapshot, in new buffers, by name: as
    /// [`Patch::to_memory`], each byte made once and proved at its end.
    ///
    /// # Errors
    /// As [`Patch::to_memory`].
    pub fn to_memory(
        &self,
        control: Control<'_>,
    ) -> Result<BTreeMap<String, (TensorSpec, Vec<u8>)>> {
        if !self.first().header().snapshot {
            let what = "not a snapshot: it needs the base that it was made from".into();
            return Err(Error::NeedsBase { file: self.first().path().map(Into::into), what });
        }
        let tensors = target_tensors(None, self)?;
        let mut buffers = buffers(&tensors)?;
        let tasks = pieces_in(&tensors, buffers.iter_mut().map(Vec::as_mut_slice));
        let made = prove(tasks, self, None, control, make, |_, ()| {});
        explain(None, self, control, made)?;
        let found = tensors.iter().zip(buffers);
        Ok(found
            .map(|(tensor, bytes)| (tensor.name.into(), (tensor.spec.clone(), bytes)))
            .collect())
    }
}

fn make<'a>(
    builder: &mut Builder,
    mut group: Vec<Task<'a, &mut [u8]>>,
) -> Result<Vec<Done<'a, ()>>> {
    for Task { piece, with } in group.iter_mut().filter(|task| task.piece.is_changed) {
        builder.apply(piece, with)?;
    }
    Ok(hashed(group))
}

/// Room for tensors, an error where there is none. Zeros that come from the system cost nothing before
/// they are overwritten.
pub(super) fn buffers(tensors: &[OutTensor<'_>]) -> Result<Vec<Vec<u8>>> {
    let room = |tensor: &OutTensor<'_>| {
        let bytes = usize::try_from(tensor.spec.bytes()).ok();
        match bytes.filter(|&bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok()) {
            Some(bytes) => Ok(vec![0; bytes]),
            None => {
                let doing = format!("making room for tensor '{}'", tensor.name);
                Err(Error::io(doing, io::ErrorKind::OutOfMemory.into()))
            }
        }
    };
    tensors.iter().map(room).collect()
}
