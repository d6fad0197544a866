//! Memory that passes between Python and Rust without a copy. All `unsafe` of the package is here.
//!
//! What it rests on:
//! - **Lent to us.** A [`Lent`] keeps the Python object alive whose memory it names, so the memory is there. The
//!   object says where it is and how long it is; [`crate::tensor`] asks for both and for what could make that a lie
//!   (another device, strides, a storage that was shrunk). Objects whose memory can move or go while they live, as a
//!   storage that is resized, are asked again before each later use: [`crate::tensor::has_moved`].
//! - **Nobody else writes.** Python has no borrow checker: another thread, or another process with shared memory, may
//!   write to a tensor while a call reads it. That is the caller's fault, as it is with every library that lets
//!   threads run beside it, and the documentation of the package says so. The bytes are then of no version: digests
//!   fail to match, or a later check of all bytes fails. Of this package's own calls, those that would read what
//!   another one writes are refused: [`Lease`].
//! - **Lent by us.** A buffer that Python views is owned by an object that Python keeps alive and that never moves,
//!   grows or frees it before.

use std::ffi::c_int;
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use pulse::dtype::TensorSpec;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Who keeps the memory of a tensor where it is.
pub(crate) enum Owner {
    Torch(Py<PyAny>),
    NumPy(Py<PyAny>),
    /// Which cannot move while it is lent.
    #[allow(dead_code)] // held, not read
    Buffer(Arc<PyUntypedBuffer>),
}

/// A tensor whose bytes Python lends.
pub(crate) struct Lent {
    pub name: String,
    pub spec: TensorSpec,
    pub writable: bool,
    pub owner: Owner,
    address: *mut u8,
    /// As many as the spec says.
    bytes: usize,
}

// SAFETY: the address is that of plain bytes, which any thread may read and write; that no two do so at once is
// for the callers of `bytes` and `split_mut`, as above. The owner is Send and Sync by itself.
unsafe impl Send for Lent {}
// SAFETY: as for Send.
unsafe impl Sync for Lent {}

/// Two tensors of which one begins within the other.
pub(crate) struct Overlap(pub String, pub String);

impl Lent {
    /// The tensor at an address.
    ///
    /// Not marked unsafe, since what Python says of addresses cannot be proved here: `owner` must keep as many bytes
    /// as the spec says at `address`, initialised, and writable if that is said.
    pub fn new(
        name: String,
        spec: TensorSpec,
        address: usize,
        writable: bool,
        owner: Owner,
    ) -> Self {
        // It is in memory, so its size is one of memory.
        let bytes = spec.bytes() as usize;
        Lent {
            name,
            spec,
            writable,
            owner,
            address: ptr::with_exposed_provenance_mut(address),
            bytes,
        }
    }

    pub fn address(&self) -> usize {
        self.address.addr()
    }

    pub fn bytes(&self) -> &[u8] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: the owner, which lives as long as this, keeps so many initialised bytes there (see `new`). That
        // nobody writes to them meanwhile is the contract of the package.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    fn range(&self) -> Range<usize> {
        let start = self.address.addr();
        start..start + self.bytes
    }
}

/// For each tensor the number of an earlier one that has exactly its memory.
pub(crate) fn ties(lent: &[Lent]) -> Result<Vec<Option<usize>>, Overlap> {
    let mut order: Vec<usize> = (0..lent.len()).filter(|&at| lent[at].bytes > 0).collect();
    order.sort_by_key(|&at| (lent[at].address.addr(), at));
    let mut ties = vec![None; lent.len()];
    let mut last: Option<usize> = None;
    for at in order {
        match last {
            Some(before) if lent[before].range() == lent[at].range() => ties[at] = Some(before),
            Some(before) if lent[before].range().end > lent[at].range().start => {
                return Err(Overlap(lent[before].name.clone(), lent[at].name.clone()));
            }
            _ => last = Some(at),
        }
    }
    Ok(ties)
}

/// The bytes of all tensors, to be written; none for those that have the memory of another.
pub(crate) fn split_mut(lent: &mut [Lent]) -> Result<Vec<Option<&mut [u8]>>, Overlap> {
    let ties = ties(lent)?;
    let split = lent.iter_mut().zip(ties).map(|(lent, tie)| match tie {
        Some(_) => None,
        None if lent.bytes == 0 => Some(&mut [][..]),
        // SAFETY: as in `bytes`; and no two of the slices overlap, which `ties` has proved of all of them.
        None => Some(unsafe { std::slice::from_raw_parts_mut(lent.address, lent.bytes) }),
    });
    Ok(split.collect())
}

/// The memory that a call is at work on.
struct Claim {
    number: u64,
    process: u32,
    writes: bool,
    ranges: Vec<Range<usize>>,
}

/// Those of all calls.
static CLAIMS: Mutex<Vec<Claim>> = Mutex::new(Vec::new());

/// A call's claim on memory, which ends with it: others may read what it reads, but nobody what it writes.
///
/// Taken and given back while the interpreter is held, so that no process is forked in between.
pub(crate) struct Lease(u64);

impl Lease {
    /// None if another call is at work on some of it.
    pub fn take<'a>(lent: impl IntoIterator<Item = &'a Lent>, writes: bool) -> Option<Self> {
        let mut ranges: Vec<_> = lent.into_iter().map(Lent::range).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        // Calls of a process that this one was forked from are not at work on memory of this one.
        claims.retain(|claim| claim.process == process);
        let refuses = |claim: &Claim| (claim.writes || writes) && overlap(&claim.ranges, &ranges);
        if claims.iter().any(refuses) {
            return None;
        }
        let number = claims.last().map_or(0, |claim| claim.number + 1);
        claims.push(Claim { number, process, writes, ranges });
        Some(Lease(number))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|claim| claim.number != self.0);
    }
}

/// Whether two lists of ranges, each sorted by where they start, have a byte in common.
fn overlap(a: &[Range<usize>], b: &[Range<usize>]) -> bool {
    let starts_within = |a: &[Range<usize>], b: &[Range<usize>]| {
        // Ranges of one list may overlap, so the greatest end before counts.
        let (mut at, mut end) = (0, 0);
        b.iter().any(|range| {
            while a.get(at).is_some_and(|before| before.start <= range.start) {
                end = end.max(a[at].end);
                at += 1;
            }
            end > range.start
        })
    };
    starts_within(a, b) || starts_within(b, a)
}

/// Lends bytes that `owner` owns to Python.
///
/// # Safety
/// `view` is what Python passes to `__getbuffer__` of `owner`, and `bytes` stay where they are as long as `owner` lives.
unsafe fn lend(
    view: *mut ffi::Py_buffer,
    flags: c_int,
    owner: Bound<'_, PyAny>,
    (address, bytes): (*const u8, usize),
    is_read_only: bool,
) -> PyResult<()> {
    let bytes = ffi::Py_ssize_t::try_from(bytes)?;
    // SAFETY: `view` is valid, and the owner is referenced by it, so that the bytes outlive it.
    let result = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            address.cast_mut().cast(),
            bytes,
            is_read_only.into(),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}

#[pymethods]
impl crate::buffer::Buffer {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let place = slf.get().place();
        // SAFETY: Python calls this with a view to be filled; a Buffer never changes what it owns.
        unsafe { lend(view, flags, slf.into_any(), place, false) }
    }
}

/// Lends the bytes that a patch or a part of one has in memory.
///
/// # Safety
/// As of [`lend`]; `owner` never changes the bytes.
unsafe fn lend_memory(
    view: *mut ffi::Py_buffer,
    flags: c_int,
    owner: Bound<'_, PyAny>,
    memory: Option<*const [u8]>,
) -> PyResult<()> {
    let Some(bytes) = memory else {
        return Err(PyBufferError::new_err("it is a file; bytes() of it reads it into memory"));
    };
    // SAFETY: as the caller has promised.
    unsafe { lend(view, flags, owner, (bytes.cast(), bytes.len()), true) }
}

#[pymethods]
impl crate::patch::Patch {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let memory = slf.get().memory().map(ptr::from_ref);
        // SAFETY: Python calls this with a view to be filled; a Patch never changes the bytes that it owns.
        unsafe { lend_memory(view, flags, slf.into_any(), memory) }
    }
}

#[pymethods]
impl crate::part::Part {
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let memory = slf.get().memory().map(ptr::from_ref);
        // SAFETY: Python calls this with a view to be filled; a Part never changes the bytes that it owns.
        unsafe { lend_memory(view, flags, slf.into_any(), memory) }
    }
}
