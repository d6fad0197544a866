//! Headers of made-up checkpoints.

/// What comes before the tensors in a safetensors file of so many BF16 tensors, all of one size,
/// which is a multiple of 2 KiB: rows of 1,024 columns.
pub fn header(tensors: usize, tensor_bytes: usize) -> Vec<u8> {
    let rows = tensor_bytes / 2 / 1024;
    let tensor = |i: usize| {
        let begin = i * tensor_bytes;
        let end = begin + tensor_bytes;
        format!(
            r#""layers.{i:05}.weight":{{"dtype":"BF16","shape":[{rows},1024],"data_offsets":[{begin},{end}]}}"#
        )
    };
    let tensors: Vec<String> = (0..tensors).map(tensor).collect();
    let mut json = format!("{{{}}}", tensors.join(","));
    json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}
