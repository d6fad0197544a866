//! The Python package `pulse_codec`: what of it is Rust, as its private module `_pulse`.
//!
//! Names, words and guarantees are those of the library `pulse`. Every call that takes long lets other Python
//! threads run ([`work`]), weights are read and written where they are ([`lent`]), and errors of the library
//! become exceptions with fields ([`failure`]).
#![deny(unsafe_code)]

mod apply;
mod buffer;
mod command;
mod diff;
mod digests;
mod failure;
mod join;
#[allow(unsafe_code)] // the only one; see there
mod lent;
mod live;
mod load;
mod options;
mod part;
mod patch;
mod prepared;
mod shadow;
mod source;
mod tensor;
mod view;
mod work;

/// What `pulse_codec` is made of.
#[pyo3::pymodule(gil_used = false)]
mod _pulse {
    #[pymodule_export]
    use crate::apply::{apply, Applied};
    #[pymodule_export]
    use crate::buffer::Buffer;
    #[pymodule_export]
    use crate::command::{inspect, main, stat};
    #[pymodule_export]
    use crate::diff::{diff, snapshot};
    #[pymodule_export]
    use crate::digests::{digest, digests, Digests};
    #[pymodule_export]
    use crate::join::join;
    #[pymodule_export]
    use crate::live::{feed_compact, feed_log, feed_mirror, feed_prune, feed_status, feed_verify};
    #[pymodule_export]
    use crate::live::{keygen, Follower, Published, Publisher, Record, Version};
    #[pymodule_export]
    use crate::load::load;
    #[pymodule_export]
    use crate::options::{EncoderOptions, Slice};
    #[pymodule_export]
    use crate::part::Part;
    #[pymodule_export]
    use crate::patch::Patch;
    #[pymodule_export]
    use crate::prepared::{Prepared, Sparse};
    #[pymodule_export]
    use crate::shadow::{Shadow, Unpublished};
    #[pymodule_export]
    use crate::view::View;
}
