//! Safetensors files.

use std::fs;
use std::path::Path;

use pulse::checkpoint::{diff, ApplyOptions, DiffOptions, Existing};
use pulse::tensors::Control;
use pulse::{Checkpoint, Limits, Patch};
use serde_json::Value;

use super::apply::{read, scratch};

/// Any bytes as a safetensors file: refused, or a checkpoint whose tensors are the bytes that the header says, and
/// that comes back byte for byte from its snapshot.
pub fn headers(data: &[u8]) {
    let scratch = scratch();
    check(data, scratch.path());
    if let Some(fitted) = fitted(data).filter(|fitted| fitted != data) {
        check(&fitted, scratch.path());
    }
}

/// A file of the same JSON whose length field and data fit it: a fuzzer does not count.
fn fitted(data: &[u8]) -> Option<Vec<u8>> {
    const DATA_MAX: usize = 1 << 16;
    let rest = data.get(8..)?;
    let (json, data) = rest.split_at(rest.iter().rposition(|&byte| byte == b'}')? + 1);
    let numbers = json
        .split(|byte| !byte.is_ascii_digit())
        .filter_map(|digits| std::str::from_utf8(digits).ok());
    let largest =
        numbers.filter_map(|digits| digits.parse().ok()).filter(|&number| number <= DATA_MAX).max();
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json);
    file.extend_from_slice(data);
    file.resize(8 + json.len() + largest.unwrap_or(0), 0);
    Some(file)
}

fn check(file: &[u8], scratch: &Path) {
    let (path, out) = (scratch.join("file"), scratch.join("out"));
    fs::write(&path, file).expect("a file");
    let checkpoint = match Checkpoint::open(&path) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return assert_eq!(error.kind(), "checkpoint", "{error}"),
    };
    let tensors = read(&checkpoint);
    let (json, data) =
        file[8..].split_at(u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize);
    let header: Value = serde_json::from_slice(json).expect("a header that was read");
    let entries =
        header.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__");
    let mut count = 0;
    for (name, entry) in entries {
        let (spec, bytes) = &tensors[name];
        let offset = |end: usize| entry["data_offsets"][end].as_u64().expect("an offset") as usize;
        assert!(data[offset(0)..offset(1)] == *bytes, "other bytes");
        let shape: Vec<u64> =
            entry["shape"].as_array().expect("a shape").iter().filter_map(Value::as_u64).collect();
        assert_eq!(
            (spec.dtype().name(), spec.shape()),
            (entry["dtype"].as_str().expect("a dtype"), &shape[..])
        );
        let tensor = checkpoint.tensor(name).expect("a tensor of its name");
        let beyond =
            checkpoint.read_at(tensor, spec.bytes(), &mut [0]).expect_err("a byte beyond a tensor");
        assert_eq!(beyond.kind(), "misuse");
        count += 1;
    }
    assert_eq!(tensors.len(), count);
    assert_eq!(checkpoint.tensor_bytes(), data.len() as u64);

    let (mut patch, control) = (Vec::new(), Control::threads(1));
    if let Err(error) = diff(None, &checkpoint, &mut patch, DiffOptions::default(), control) {
        // A rank or a name beyond what readers take.
        return assert_eq!(error.kind(), "checkpoint", "{error}");
    }
    let patch = Patch::from_bytes(patch, Limits::default()).expect("a patch of our own");
    let options = ApplyOptions::default().with_existing(Existing::Replace);
    patch.apply(None, &out, options, control).expect("a snapshot of our own");
    assert!(fs::read(&out).expect("the file of before") == file, "another file");
}
