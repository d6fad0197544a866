//! Tensors that are prepared while the rest of their patch is on its way.

use crate::error::Result;
use crate::limits::Limits;
use crate::patch::{BlockEntry, Chain, Patch, TensorEntry};
use crate::stream::{Event, PushDecoder};
use crate::tensors::prepared::Made;
use crate::tensors::target::{patched_tensors, OutTensor};
use crate::tensors::{Control, PrepareOptions, Prepared, TensorSource};
use crate::wire::{Action, Header};

/// Tensors are made once so many of their bytes can be, or so many for each thread: enough to be worth
/// starting it.
const BATCH_BYTES: u64 = 32 << 20;
const THREAD_BYTES: u64 = 4 << 20;
/// A larger tensor waits for the end: its bytes would hold up those that arrive meanwhile.
const TENSOR_BYTES_MAX: u64 = 256 << 20;

/// [`Patch::prepare`] for a patch that is still arriving: tensors whose part of it is there are made and
/// proved beside the weights meanwhile, so that little is left to do at the end.
///
/// It decides nothing. What arrives is checked when all of it is there, by opening the [`Patch`];
/// [`prepare`](Self::prepare) then takes of what was made ahead the tensors that have the digests which the
/// patch names, and makes all others. Bytes that turn out to be wrong cost time, nothing else.
///
/// ```
/// # use pulse::dtype::{Dtype, TensorSpec};
/// # use pulse::tensors::{diff, DiffOptions, TensorRef, Weights};
/// use pulse::tensors::{Ahead, Control, PrepareOptions, TensorMut, WeightsMut};
/// use pulse::patch::Chain;
/// use pulse::{Limits, Patch};
/// # let spec = TensorSpec::new(Dtype::U8, &[3])?;
/// # let mut weights = *b"abc";
/// # let mut sent = Vec::new();
/// # let base: Weights = [("w", TensorRef::new(spec.clone(), b"abc")?)].into_iter().collect();
/// # let wanted: Weights = [("w", TensorRef::new(spec.clone(), b"abd")?)].into_iter().collect();
/// # diff(Some(&base), &wanted, &mut sent, DiffOptions::default(), Control::default())?;
/// let mut held: WeightsMut = [("w", TensorMut::new(spec, &mut weights)?)].into_iter().collect();
/// let mut ahead = Ahead::new(Limits::default(), PrepareOptions::default());
/// let mut arrived = Vec::new();
/// for bytes in sent.chunks(100) {
///     arrived.extend_from_slice(bytes);
///     ahead.push(bytes, &held, Control::default());
/// }
/// let patches = [Patch::from_bytes(arrived, Limits::default())?];
/// let prepared = ahead.prepare(&Chain::new(&patches)?, &held, Control::default())?;
/// prepared.commit(&mut held, Control::default())?;
/// assert_eq!(&weights, b"abd");
/// # Ok::<(), pulse::Error>(())
/// ```
#[derive(Debug)]
pub struct Ahead {
    limits: Limits,
    options: PrepareOptions,
    decoder: PushDecoder,
    /// Nothing more is made ahead: the bytes are wrong, or do not build on the weights.
    is_over: bool,
    header: Option<Header>,
    /// The tensor that is arriving, if it is to be made ahead.
    open: Option<TensorEntry>,
    /// Those that are there, and how many bytes they have.
    there: Vec<TensorEntry>,
    there_bytes: u64,
    /// Payloads of both; the entries say where.
    payloads: Vec<u8>,
    made: Made,
}

impl Ahead {
    /// Waits for the first byte of a patch.
    #[must_use]
    pub fn new(limits: Limits, options: PrepareOptions) -> Self {
        Ahead {
            decoder: PushDecoder::new(limits.clone()),
            limits,
            options,
            is_over: false,
            header: None,
            open: None,
            there: Vec::new(),
            there_bytes: 0,
            payloads: Vec::new(),
            made: Made::new(options),
        }
    }

    /// The options that it was made with.
    #[must_use]
    pub fn options(&self) -> PrepareOptions {
        self.options
    }

    /// Takes the next bytes of the patch, and makes tensors once enough of them are there.
    ///
    /// From then on the weights have to stay as they are until the commit, as they have from
    /// [`Patch::prepare`] on: what is made ahead is not read again.
    pub fn push(&mut self, mut bytes: &[u8], weights: &dyn TensorSource, control: Control<'_>) {
        while !bytes.is_empty() && !self.is_over && !self.decoder.is_done() {
            let Ok(taken) = self.decoder.advance(bytes) else {
                self.is_over = true;
                return;
            };
            bytes = &bytes[taken..];
            self.note(weights);
            let batch = BATCH_BYTES.max(THREAD_BYTES.saturating_mul(control.count() as u64));
            if self.there_bytes >= batch && self.make(weights, control).is_err() {
                // All that is missing is made by `prepare`, which finds the reason as well.
                self.is_over = true;
            }
        }
    }

    /// Notes what the decoder has found.
    fn note(&mut self, weights: &dyn TensorSource) {
        match self.decoder.event() {
            Some(Event::Header(header)) => {
                // A snapshot says nothing of the weights.
                self.is_over = header.snapshot;
                self.header = Some(header.clone());
            }
            Some(Event::Tensor(header)) => {
                let is_patched = header.action == Action::Patched
                    && weights.spec(&header.name) == header.spec.as_ref();
                let bytes = header.spec.as_ref().map_or(u64::MAX, |spec| spec.bytes());
                self.open = (is_patched && bytes <= TENSOR_BYTES_MAX)
                    .then(|| TensorEntry::begin(header.clone()));
            }
            Some(Event::Block(block)) => {
                if let Some(tensor) = &mut self.open {
                    let start = self.payloads.len() as u64;
                    self.payloads.extend_from_slice(block.payload());
                    let place = start..self.payloads.len() as u64;
                    tensor.blocks.push(BlockEntry::new(block.extent(), place));
                }
            }
            Some(Event::TensorEnd(end)) => {
                if let Some(mut tensor) = self.open.take() {
                    tensor.end = Some(*end);
                    self.there_bytes += tensor.header.spec.as_ref().map_or(0, |spec| spec.bytes());
                    self.there.push(tensor);
                }
            }
            _ => {}
        }
    }

    /// Makes the tensors that are there.
    fn make(&mut self, weights: &dyn TensorSource, control: Control<'_>) -> Result<()> {
        let (there, payloads) =
            (std::mem::take(&mut self.there), std::mem::take(&mut self.payloads));
        self.there_bytes = 0;
        let Some(header) = self.header.clone() else { return Ok(()) };
        let excerpt = Patch::excerpt(header, there, payloads, self.limits.clone());
        let held = excerpt.tensors().iter().filter_map(|tensor| {
            let name = &*tensor.header.name;
            Some(OutTensor::new(name, weights.spec(name)?, None))
        });
        let tensors = patched_tensors(held.collect(), &excerpt)?;
        self.made.add(&tensors, Some(weights), control)
    }

    /// Finishes: as [`Chain::prepare`], without what was made ahead of the same weights. Weights that are
    /// elsewhere in memory are others.
    ///
    /// # Errors
    /// As [`Patch::prepare`].
    pub fn prepare(
        self,
        chain: &Chain<'_>,
        weights: &dyn TensorSource,
        control: Control<'_>,
    ) -> Result<Prepared> {
        self.made.finish(chain, weights, control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{Dtype, TensorSpec};
    use crate::error::Error;
    use crate::tensors::{diff, DiffOptions, TensorMut, TensorRef, Weights, WeightsMut};

    type Model = Vec<(String, TensorSpec, Vec<u8>)>;

    /// More than one batch: tensors of several sizes.
    fn model() -> Model {
        let tensor = |number: u64| {
            let elements = (number % 5 + 1) * (3 << 20) / 2;
            let bytes = (0..elements * 2).map(|at| ((at * (number + 3)) >> 7) as u8).collect();
            let spec = TensorSpec::new(Dtype::Bf16, &[elements]).unwrap();
            (format!("tensor{number:02}"), spec, bytes)
        };
        (0..12).map(tensor).collect()
    }

    fn trained(model: &Model) -> Model {
        let mut model = model.clone();
        for (number, (_, _, bytes)) in model.iter_mut().enumerate() {
            // One stays as it is.
            if number != 4 {
                bytes.iter_mut().skip(number).step_by(997).for_each(|byte| *byte ^= 1);
            }
        }
        model
    }

    fn weights(model: &Model) -> Weights<'_> {
        let tensors = model.iter().map(|(name, spec, bytes)| {
            (name.as_str(), TensorRef::new(spec.clone(), bytes).unwrap())
        });
        tensors.collect()
    }

    fn weights_mut(model: &mut Model) -> WeightsMut<'_> {
        let tensors = model.iter_mut().map(|(name, spec, bytes)| {
            (name.as_str(), TensorMut::new(spec.clone(), bytes).unwrap())
        });
        tensors.collect()
    }

    fn patch(base: Option<&Model>, target: &Model) -> Vec<u8> {
        let mut patch = Vec::new();
        let base = base.map(weights);
        let base = base.as_ref().map(|base| base as &dyn TensorSource);
        diff(base, &weights(target), &mut patch, DiffOptions::default(), Control::default())
            .unwrap();
        patch
    }

    /// What is made of the weights if these bytes come before the patch is opened, and how many tensors
    /// were made ahead.
    fn prepare(
        came: &[u8],
        chunk_bytes: usize,
        sent: &[u8],
        held: &mut Model,
    ) -> (Result<()>, usize) {
        let mut held = weights_mut(held);
        let mut ahead = Ahead::new(Limits::default(), PrepareOptions::default());
        for bytes in came.chunks(chunk_bytes) {
            ahead.push(bytes, &held, Control::threads(2));
        }
        let made = ahead.made.count();
        let patches = [Patch::from_bytes(sent.to_vec(), Limits::default()).unwrap()];
        let chain = Chain::new(&patches).unwrap();
        let result = ahead
            .prepare(&chain, &held, Control::threads(2))
            .and_then(|prepared| prepared.commit(&mut held, Control::default()))
            .map(|report| assert_eq!(report.target, patches[0].footer().target));
        (result, made)
    }

    #[test]
    fn what_is_made_ahead_is_what_is_made_at_once_however_it_arrives() {
        let base = model();
        let target = trained(&base);
        let sent = patch(Some(&base), &target);
        for (came, chunk_bytes) in [
            (sent.len(), 4096),
            (sent.len(), sent.len()),
            (sent.len() * 2 / 3, 777),
            (1, 1),
            (0, 1),
        ] {
            let mut held = base.clone();
            let (result, made) = prepare(&sent[..came], chunk_bytes, &sent, &mut held);
            result.unwrap();
            assert!(held == target, "{came} bytes in chunks of {chunk_bytes}");
            assert_eq!(made > 0, came > 1000, "{made} tensors of {came} bytes");
        }
    }

    #[test]
    fn what_arrives_wrong_is_made_again_from_the_patch() {
        let base = model();
        let target = trained(&base);
        let sent = patch(Some(&base), &target);
        let (mut other, mut damaged) = (target.clone(), sent.clone());
        other.iter_mut().for_each(|(_, _, bytes)| bytes[500] ^= 1);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        // Another patch of the same weights, a damaged one, a snapshot, and no patch at all.
        for (came, is_made) in [
            (patch(Some(&base), &other), true),
            (damaged, true),
            (patch(None, &target), false),
            (vec![7; 100_000], false),
        ] {
            let mut held = base.clone();
            let (result, made) = prepare(&came, 5000, &sent, &mut held);
            result.unwrap();
            assert!(held == target);
            assert_eq!(made > 0, is_made);
        }
    }

    #[test]
    fn what_was_made_of_other_weights_is_not_used() {
        let base = model();
        let target = trained(&base);
        let sent = patch(Some(&base), &target);
        let patches = [Patch::from_bytes(sent.clone(), Limits::default()).unwrap()];
        let chain = Chain::new(&patches).unwrap();
        let (mut same, mut other) = (base.clone(), base.clone());
        other[3].2[100] ^= 1;
        for (held, is_base) in [(&mut same, true), (&mut other, false)] {
            let mut ahead = Ahead::new(Limits::default(), PrepareOptions::default());
            ahead.push(&sent, &weights(&base), Control::threads(2));
            assert!(ahead.made.count() > 0);
            let mut held = weights_mut(held);
            let prepared = ahead.prepare(&chain, &held, Control::threads(2));
            if is_base {
                prepared.unwrap().commit(&mut held, Control::default()).unwrap();
            } else {
                assert!(matches!(prepared, Err(Error::BaseMismatch(_))), "{prepared:?}");
            }
        }
        assert!(same == target);
    }

    #[test]
    fn of_weights_that_are_not_the_base_the_error_is_that_of_prepare() {
        let base = model();
        let sent = patch(Some(&base), &trained(&base));
        let mut other = base.clone();
        other[3].2[100] ^= 1;
        let as_it_was = other.clone();
        let (result, _) = prepare(&sent, 5000, &sent, &mut other);
        assert!(matches!(result, Err(Error::BaseMismatch(_))), "{result:?}");
        assert!(other == as_it_was);
    }
}
