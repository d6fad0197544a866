//! What the log says of a version.

use pyo3::prelude::*;

/// The record of a version.
#[pyclass(frozen, get_all, skip_from_py_object, module = "pulse_codec")]
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Its number, from 0.
    version: u64,
    /// Digest of the checkpoint.
    digest: String,
    /// Optimizer step, if it is known.
    step: Option<u64>,
    /// When it was published, by the clock of the publisher: seconds since 1970.
    time: f64,
    /// The writer: 32 hexadecimal digits.
    writer: String,
    /// How often a writer has taken over from another one, from 1.
    epoch: u64,
    /// The newest version of which there is an anchor.
    anchor: u64,
    /// Whether it is the last of the run.
    ended: bool,
}

impl Record {
    pub fn of(record: &pulse_sync::Record) -> Self {
        Record {
            version: record.version,
            digest: record.target.to_string(),
            step: record.step,
            time: record.time as f64 / 1000.0,
            writer: record.writer.to_string(),
            epoch: record.epoch,
            anchor: record.anchor.version,
            ended: record.ended,
        }
    }
}

#[pymethods]
impl Record {
    fn __repr__(&self) -> String {
        format!("<version {}, {}…>", self.version, &self.digest[..16])
    }
}
