//! Patches composed to one, and turned round: the same bytes as a diff of both ends.

mod chains;
mod files;
mod random;
mod revert;

use std::path::{Path, PathBuf};

use pulse::chain::ComposeReport;
use pulse::coding::{Coding, ValueForm};
use pulse::dtype::Dtype;
use pulse::stream::EncoderOptions;
use pulse::tensors::Control;
use pulse::{Patch, Result};
use testkit::files::{noise, safetensors, tensor, Files, Place, Tensor};
use testkit::library::{apply, diff, open, open_patch};

pub(crate) fn flat(values: ValueForm) -> EncoderOptions {
    EncoderOptions::default().with_coding(Coding::Flat).with_values(values)
}

/// Checkpoints on disk, one for each step of a run.
pub(crate) struct Run {
    pub place: Place,
    pub checkpoints: Vec<PathBuf>,
}

impl Run {
    pub fn new(checkpoints: &[Files]) -> Run {
        let place = Place::new();
        let checkpoints = checkpoints.iter().enumerate();
        let checkpoints =
            checkpoints.map(|(step, files)| place.put(&format!("step{step}"), files)).collect();
        Run { place, checkpoints }
    }

    pub fn ends(&self) -> (&Path, &Path) {
        (&self.checkpoints[0], self.checkpoints.last().unwrap())
    }

    /// The bytes of the patch from one step to another; a snapshot without the first.
    pub fn direct(&self, from: Option<usize>, to: usize, options: &EncoderOptions) -> Vec<u8> {
        let path = self.place.path("direct.pulse");
        let lineage = options.lineage.with_target_step(to as u64);
        let lineage = from.map_or(lineage, |step| lineage.with_base_step(step as u64));
        let options = options.clone().with_lineage(lineage);
        diff(
            from.map(|step| self.checkpoints[step].as_path()),
            &self.checkpoints[to],
            &path,
            options,
            2,
        );
        std::fs::read(path).unwrap()
    }

    pub fn patch(&self, from: Option<usize>, to: usize, options: &EncoderOptions) -> Patch {
        let name = format!("{}to{to}.pulse", from.map_or(String::new(), |from| from.to_string()));
        open_patch(&self.place.put_bytes(&name, &self.direct(from, to, options)))
    }

    /// A patch for each step, with these options in turn.
    pub fn patches(&self, options: &[EncoderOptions]) -> Vec<Patch> {
        let steps = (1..self.checkpoints.len()).zip(options.iter().cycle());
        steps.map(|(step, options)| self.patch(Some(step - 1), step, options)).collect()
    }

    /// Composes on one thread and on several, which must agree.
    fn compose(
        &self,
        patches: &[Patch],
        base: Option<&Path>,
        options: &EncoderOptions,
    ) -> Result<(Vec<u8>, ComposeReport)> {
        let base = base.map(open);
        let compose = |threads| {
            let (mut patch, control) = (Vec::new(), Control::threads(threads));
            let report = Patch::compose(
                patches,
                base.as_ref(),
                &mut patch,
                options.clone().into(),
                control,
            )?;
            Ok((patch, report))
        };
        let (one, three) = (compose(1), compose(3));
        assert_eq!(one.as_ref().map(|one| &one.0).ok(), three.as_ref().map(|three| &three.0).ok());
        one
    }

    /// The composed patch has the bytes of the direct one, and makes the last checkpoint.
    #[track_caller]
    fn composes(&self, patches: &[Patch], base: Option<&Path>, options: &EncoderOptions) {
        let (patch, report) = self.compose(patches, base, options).unwrap();
        let direct = self.direct(Some(0), self.checkpoints.len() - 1, options);
        assert!(patch == direct, "{} bytes, the direct patch has {}", patch.len(), direct.len());
        assert_eq!(report.summary.patch_bytes, patch.len() as u64);
        assert_eq!(report.input_bytes, patches.iter().map(Patch::bytes).sum::<u64>());
        assert_eq!(report.verified, base.is_some());
        let (first, last) = self.ends();
        let out = tempfile::tempdir().unwrap();
        let (patch, out) = (self.place.put_bytes("composed.pulse", &patch), out.path().join("out"));
        apply(Some(first), &patch, &out).unwrap();
        Files::read(&out).assert_same(&Files::read(last));
    }
}

fn width(tensor: &Tensor) -> usize {
    Dtype::from_name(&tensor.dtype).element_bytes()
}

/// Other bits in about one element of `every`.
pub(crate) fn drifted(mut tensor: Tensor, seed: u64, every: u64) -> Tensor {
    let width = width(&tensor);
    let dice = noise(seed, 16 * (tensor.bytes.len() / width));
    for (element, dice) in tensor.bytes.chunks_mut(width).zip(dice.chunks(16)) {
        if u64::from_le_bytes(dice[..8].try_into().unwrap()) % every == 0 {
            element.copy_from_slice(&dice[8..8 + width]);
        }
    }
    tensor
}

/// A tensor of each dtype, each of a few leaves.
fn every_dtype() -> Vec<Tensor> {
    let one = |dtype: Dtype| {
        let elements = 170_000 / dtype.element_bytes();
        tensor(
            dtype.name(),
            dtype.name(),
            &[elements as u64],
            noise(7, elements * dtype.element_bytes()),
        )
    };
    Dtype::known().map(one).chain([tensor("opaque", "F4", &[9], noise(8, 100_001))]).collect()
}

/// A directory of two shards and two companions.
pub(crate) fn directory(shard: &[Tensor], other: &[Tensor], config: &str) -> Files {
    Files::many([
        ("model-1.safetensors", safetensors(shard)),
        ("model-2.safetensors", safetensors(other)),
        ("config.json", config.into()),
        ("tokenizer.json", "the same all the way".into()),
    ])
}

/// Four steps in which everything happens that can happen to a tensor, a header and a companion.
pub(crate) fn eventful() -> Run {
    let bf16 = |name: &str, seed, elements: u64| {
        tensor(name, "BF16", &[elements], noise(seed, 2 * elements as usize))
    };
    let weights = |step: u64| {
        (0..step).fold(bf16("weights", 1, 200_000), |tensor, step| drifted(tensor, 90 + step, 50))
    };
    let shard = |step| vec![weights(step), tensor("fixed", "F32", &[1000], noise(2, 4000))];
    let (early, late) = (bf16("early", 3, 40_000), bf16("late", 4, 70_000));
    let (kind, other_kind) = (bf16("kind", 5, 100), tensor("kind", "F32", &[100], noise(6, 400)));
    let (guest, empty) = (bf16("guest", 7, 9), tensor("empty", "F16", &[0, 3], []));
    Run::new(&[
        directory(&shard(0), &[early.clone(), kind.clone()], "{}"),
        // "late" and an empty tensor come, "kind" changes.
        directory(
            &shard(1),
            &[early.clone(), drifted(kind, 11, 9), late.clone(), empty.clone()],
            r#"{"step": 1}"#,
        ),
        // "early" goes, "kind" is replaced, "late" changes, "guest" comes.
        directory(
            &shard(2),
            &[other_kind.clone(), drifted(late.clone(), 12, 99), empty.clone(), guest],
            r#"{"step": 1}"#,
        ),
        // "guest" goes, what was put changes once more.
        directory(
            &shard(3),
            &[drifted(other_kind, 13, 9), drifted(drifted(late, 12, 99), 14, 99), empty],
            r#"{"step": 3}"#,
        ),
    ])
}
