//! Tensors for an encoder, for callers that do not know beforehand what happens to each.

use std::io::Write;

use pulse::dtype::TensorSpec;
use pulse::stream::TensorWriter;
use pulse::{Encoder, Result};

/// Begins a tensor, given what it is on each side; it must be on one at least.
pub fn begin<'e, W: Write>(
    encoder: &'e mut Encoder<W>,
    name: &str,
    base: Option<&TensorSpec>,
    target: Option<&TensorSpec>,
) -> Result<TensorWriter<'e, W>> {
    match (base, target) {
        (Some(base), Some(target)) if base == target => encoder.patched(name, target),
        (Some(base), Some(target)) => encoder.replaced(name, base, target),
        (None, Some(target)) => encoder.added(name, target),
        (Some(base), None) => encoder.deleted(name, base),
        (None, None) => panic!("tensor '{name}' is on neither side"),
    }
}

/// Encodes a tensor, all of its bytes at once.
pub fn push<W: Write>(
    encoder: &mut Encoder<W>,
    name: &str,
    base: Option<(&TensorSpec, &[u8])>,
    target: Option<(&TensorSpec, &[u8])>,
) -> Result<()> {
    let mut tensor = begin(encoder, name, base.map(|side| side.0), target.map(|side| side.0))?;
    tensor.push(base.map_or(&[], |side| side.1), target.map_or(&[], |side| side.1))?;
    tensor.end()
}
