//! A trainer's copy of what it published last.

use std::io::{self, Write};

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::tensor_digest;
use pulse::stream::{EncoderOptions, Receiver};
use pulse::tensors::{Control, DiffOptions, Shadow};
use pulse::{Error, Limits, Patch};
use testkit::files::{noise, stepped, weights};
use testkit::held::{refs, Tensors};
use testkit::library::diff_tensors;

fn bf16(shape: &[u64], seed: u64) -> (TensorSpec, Vec<u8>) {
    let spec = TensorSpec::new(Dtype::Bf16, shape).unwrap();
    let bytes = weights(seed, spec.elements() as usize);
    (spec, bytes)
}

/// What a run goes through: most steps change a few elements, some whole tensors.
fn run() -> Vec<Tensors> {
    let mut now = Tensors::from([
        ("a".to_string(), bf16(&[1000, 700], 1)),
        ("b.same".to_string(), bf16(&[300], 2)),
        ("c.empty".to_string(), bf16(&[0, 3], 3)),
        ("d".to_string(), bf16(&[40_000], 4)),
    ]);
    let mut steps = vec![now.clone()];
    for step in 1..=5 {
        for name in ["a", "d"] {
            let bytes = &mut now.get_mut(name).unwrap().1;
            *bytes = stepped(bytes, 2, 90 + step);
        }
        match step {
            2 => drop(now.insert("e.added".into(), bf16(&[100_000], 5))),
            3 => now.get_mut("d").unwrap().0 = TensorSpec::new(Dtype::F16, &[200, 200]).unwrap(),
            4 => drop(now.remove("e.added")),
            _ => {}
        }
        steps.push(now.clone());
    }
    steps
}

#[test]
fn patches_of_a_run_chain_and_are_those_of_a_hashed_base() {
    let (steps, control) = (run(), Control::threads(2));
    let mut shadow = Shadow::new(&refs(&steps[0]), control).unwrap();
    let mut anchor = Vec::new();
    shadow.snapshot(&mut anchor, EncoderOptions::default(), control).unwrap();
    let mut held = Tensors::new();
    let mut follow = |patch: &[u8]| {
        let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
        receiver.push(patch).unwrap();
        receiver.finish().unwrap();
        held.clone()
    };
    assert!(follow(&anchor) == steps[0]);
    for (number, step) in steps.iter().enumerate().skip(1) {
        let options = EncoderOptions::default().with_steps(number as u64 - 1, number as u64);
        let mut patch = Vec::new();
        let made = shadow.diff(&refs(step), &mut patch, options.clone(), control).unwrap();
        assert!(made.patch() == patch);
        // The header names the base, for it is known beforehand.
        let base = shadow.digests().checkpoint;
        let hashing = options.with_base_digest(base);
        let before = refs(&steps[number - 1]);
        assert!(patch == diff_tensors(Some(&before), &refs(step), hashing, control).unwrap());
        assert_eq!(
            Patch::from_bytes(patch.clone(), Limits::default()).unwrap().footer().base,
            Some(base)
        );
        shadow.advance(made, control).unwrap();
        assert!(follow(&patch) == *step, "step {number}");
        // The digests are those of all tensors, and the copy is what receivers have.
        let digests = step.iter().map(|(name, (_, bytes))| (name.clone(), tensor_digest(bytes)));
        assert_eq!(shadow.digests().tensors, digests.collect());
        let fresh = Shadow::new(&refs(step), control).unwrap();
        assert_eq!(fresh.digests(), shadow.digests());
        let mut anchors = [Vec::new(), Vec::new()];
        for (shadow, anchor) in [&fresh, &shadow].into_iter().zip(&mut anchors) {
            shadow.snapshot(anchor, EncoderOptions::default(), control).unwrap();
        }
        assert!(anchors[0] == anchors[1], "step {number}");
    }
}

/// Takes so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_was_not_published_is_part_of_the_next_patch() {
    let (steps, control, options) = (run(), Control::threads(2), EncoderOptions::default);
    let mut shadow = Shadow::new(&refs(&steps[0]), control).unwrap();
    let error = shadow.diff(&refs(&steps[1]), Full(500), options(), control).unwrap_err();
    assert_eq!(error.kind(), "io");
    let dropped = shadow.diff(&refs(&steps[1]), io::sink(), options(), control).unwrap();
    drop(dropped);
    let mut patch = Vec::new();
    let made = shadow.diff(&refs(&steps[2]), &mut patch, options(), control).unwrap();
    let mut held = steps[0].clone();
    let mut receiver = Receiver::in_memory(&mut held, Limits::default()).unwrap();
    receiver.push(&patch).unwrap();
    receiver.finish().unwrap();
    assert!(held == steps[2]);
    shadow.advance(made, control).unwrap();
    assert_eq!(shadow.digests(), Shadow::new(&refs(&held), control).unwrap().digests());
}

/// The shadow becomes what was published, even if the trainer has gone on.
#[test]
fn weights_that_change_between_diff_and_advance_are_not_looked_at() {
    let (mut steps, control, options) = (run(), Control::threads(2), EncoderOptions::default);
    let published = steps[1].clone();
    let mut shadow = Shadow::new(&refs(&steps[0]), control).unwrap();
    let made = shadow.diff(&refs(&steps[1]), io::sink(), options(), control).unwrap();
    let bytes = &mut steps[1].get_mut("a").unwrap().1;
    *bytes = noise(9, bytes.len());
    shadow.advance(made, control).unwrap();
    assert_eq!(shadow.digests(), Shadow::new(&refs(&published), control).unwrap().digests());
    let unchanged = shadow.diff(&refs(&published), io::sink(), options(), control).unwrap();
    assert_eq!(unchanged.report().summary.footer.changes, 0);
}

#[test]
fn a_patch_from_other_weights_does_not_advance_it() {
    let (steps, control, options) = (run(), Control::threads(2), EncoderOptions::default);
    let mut shadow = Shadow::new(&refs(&steps[0]), control).unwrap();
    let other = Shadow::new(&refs(&steps[1]), control).unwrap();
    let of_other = other.diff(&refs(&steps[2]), io::sink(), options(), control).unwrap();
    let first = shadow.diff(&refs(&steps[1]), io::sink(), options(), control).unwrap();
    let again = shadow.diff(&refs(&steps[1]), io::sink(), options(), control).unwrap();
    assert_eq!(shadow.advance(of_other, control).unwrap_err().kind(), "misuse");
    shadow.advance(first, control).unwrap();
    let error = shadow.advance(again, control).unwrap_err();
    assert_eq!(error.kind(), "misuse");
    assert!(error.to_string().ends_with("make it again"), "{error}");
    assert_eq!(shadow.digests(), other.digests());
}

/// The same for trainers that keep base and digests by themselves.
#[test]
fn a_base_mixed_up_with_the_digests_of_another_is_noticed_by_the_sample() {
    let (steps, control) = (run(), Control::threads(2));
    let report = |base: usize, target: usize, options: DiffOptions| {
        let (base, target) = (refs(&steps[base]), refs(&steps[target]));
        pulse::tensors::diff(Some(&base), &target, io::sink(), options, control)
    };
    let trusted = report(0, 1, DiffOptions::default()).unwrap().digests;
    assert_eq!(&trusted, Shadow::new(&refs(&steps[1]), control).unwrap().digests());
    let trusting = DiffOptions::default().with_trusted_base(trusted.clone());
    report(1, 2, trusting.clone()).unwrap();
    // The sample of these digests is a tensor that changed; a small one that did not would pass.
    let mut sampled = trusting;
    sampled.trusted_base.as_mut().unwrap().tensors.remove("b.same");
    let error = report(0, 2, sampled.clone()).unwrap_err();
    let Error::BaseMismatch(mismatch) = &error else { panic!("{error}") };
    assert!(["a", "d"].contains(&mismatch.tensor.as_deref().unwrap()), "{error}");
    report(0, 2, sampled.with_sample(false)).unwrap();
    // Digests that do not make up that of their checkpoint are noticed without looking at a byte.
    let mut torn = trusted;
    torn.checkpoint = tensor_digest(b"another");
    let options = DiffOptions::default().with_trusted_base(torn).with_sample(false);
    assert_eq!(report(1, 2, options).unwrap_err().kind(), "base");
}
