//! Checkpoints in memory, and the simplest safetensors file that holds one.

use std::collections::BTreeMap;

use pulse::dtype::{Dtype, TensorSpec};
use pulse::hash::{tensor_digest, CheckpointHasher, Digest};

/// A tensor: what it is, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub spec: TensorSpec,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of a known dtype, from the bit patterns of its elements.
    pub fn new(dtype: Dtype, shape: &[u64], elements: &[u64]) -> Tensor {
        let width = dtype.element_bytes();
        let bytes = elements.iter().flat_map(|bits| bits.to_le_bytes()[..width].to_vec()).collect();
        Tensor::from_bytes(dtype, shape, bytes)
    }

    /// A tensor of any dtype, from its bytes.
    pub fn from_bytes(dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> Tensor {
        let spec = TensorSpec::with_bytes(dtype, shape, bytes.len() as u64)
            .expect("bytes that fit the shape");
        Tensor { spec, bytes }
    }
}

/// Tensors by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub tensors: BTreeMap<String, Tensor>,
}

impl<const N: usize> From<[(&str, Tensor); N]> for Checkpoint {
    fn from(tensors: [(&str, Tensor); N]) -> Self {
        Checkpoint {
            tensors: tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect(),
        }
    }
}

impl Checkpoint {
    /// The checkpoint digest of SPEC.md §5.
    pub fn digest(&self) -> Digest {
        let mut hasher = CheckpointHasher::new();
        self.tensors.iter().for_each(|(name, tensor)| {
            hasher.add(name, &tensor.spec, tensor_digest(&tensor.bytes))
        });
        hasher.finish().expect("names are unique")
    }

    /// A safetensors file: header length, JSON header, then the tensors in the order of their names.
    pub fn to_file(&self) -> Vec<u8> {
        let (mut rows, mut data) = (Vec::new(), Vec::new());
        for (name, Tensor { spec, bytes }) in &self.tensors {
            let (begin, end) = (data.len(), data.len() + bytes.len());
            let (dtype, shape) = (spec.dtype().name(), spec.shape());
            rows.push(format!(
                r#"{}:{{"dtype":"{dtype}","shape":{},"data_offsets":[{begin},{end}]}}"#,
                serde_json::json!(name),
                serde_json::json!(shape)
            ));
            data.extend_from_slice(bytes);
        }
        let header = format!("{{{}}}", rows.join(","));
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
    }

    /// Reads a safetensors file. Panics on a bad one: the files are our own.
    pub fn from_file(file: &[u8]) -> Checkpoint {
        let data = &file[header_of(file).len()..];
        let header: serde_json::Value =
            serde_json::from_slice(&header_of(file)[8..]).expect("a JSON header");
        let mut tensors = BTreeMap::new();
        for (name, row) in header.as_object().expect("a JSON object") {
            if name == "__metadata__" {
                continue;
            }
            let numbers = |key: &str| -> Vec<u64> {
                row[key]
                    .as_array()
                    .expect("an array")
                    .iter()
                    .map(|n| n.as_u64().expect("a number"))
                    .collect()
            };
            let dtype = Dtype::from_name(row["dtype"].as_str().expect("a dtype"));
            let (shape, range) = (numbers("shape"), numbers("data_offsets"));
            let bytes = data[range[0] as usize..range[1] as usize].to_vec();
            tensors.insert(name.clone(), Tensor::from_bytes(dtype, &shape, bytes));
        }
        Checkpoint { tensors }
    }
}

/// The part of a safetensors file before its data: the length field and the JSON.
pub fn header_of(file: &[u8]) -> &[u8] {
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes"));
    &file[..8 + length as usize]
}
