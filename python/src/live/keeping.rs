//! Looking after a feed: what `pulse feed` does. `pulse_codec.feed` is made of it.

use std::future::Future;
use std::path::PathBuf;

use pulse_sync::{CompactOptions, Feed, PruneOptions, PublicKey};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyList};

use crate::live::failure;
use crate::live::publisher::seconds;
use crate::live::record::Record;
use crate::live::tasks::Tasks;

/// A public key of 64 hexadecimal digits.
pub(super) fn trusted(trust: Option<&str>) -> PyResult<Option<PublicKey>> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|error: pulse_sync::Error| PyValueError::new_err(format!("trust: {error}")))
    };
    trust.map(parse).transpose()
}

/// Does something with the feed at an address, on a runtime of its own.
fn with<T: Send, F: Future<Output = pulse_sync::Result<T>>>(
    py: Python<'_>,
    address: &str,
    work: impl FnOnce(Feed) -> F + Send,
) -> PyResult<T> {
    let tasks = Tasks::new()?;
    let feed = open(py, &tasks, address)?;
    tasks.run(py, None, || work(feed))
}

/// The feed at an address.
pub(super) fn open(py: Python<'_>, tasks: &Tasks, address: &str) -> PyResult<Feed> {
    let _context = tasks.runtime()?.enter();
    Feed::open(address).map_err(|error| failure::raise(py, error))
}

#[pyfunction]
#[pyo3(signature = (feed, *, trust=None))]
pub(crate) fn feed_status<'py>(
    py: Python<'py>,
    feed: &str,
    trust: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    let trust = trusted(trust)?;
    let status = with(py, feed, |feed| async move { pulse_sync::status(&feed, trust).await })?;
    let at = |milliseconds: u64| milliseconds as f64 / 1000.0;
    let fields = PyDict::new(py);
    fields.set_item("run", status.head.run.to_string())?;
    fields.set_item("head", Record::of(&status.head))?;
    fields.set_item("key", status.key.map(|key| key.to_string()))?;
    fields.set_item("seen", status.latest.as_ref().map(|latest| at(latest.time)))?;
    fields.set_item("expires", status.latest.as_ref().map(|latest| at(latest.expires)))?;
    fields.set_item("now", at(status.now))?;
    fields.set_item("floor", status.floor)?;
    fields.set_item("skips", status.skips)?;
    fields.set_item("anchors", status.anchors)?;
    let recent = [("versions", status.recent.versions), ("bytes", status.recent.bytes)];
    let recent = recent.into_py_dict(py)?;
    recent.set_item("seconds", at(status.recent.milliseconds))?;
    fields.set_item("recent", recent)?;
    fields.set_item("join_bytes", status.join.map(|(_, bytes)| bytes))?;
    Ok(fields)
}

#[pyfunction]
#[pyo3(signature = (feed, *, trust=None, first=0, last=None))]
pub(crate) fn feed_log(
    py: Python<'_>,
    feed: &str,
    trust: Option<&str>,
    first: u64,
    last: Option<u64>,
) -> PyResult<Vec<Record>> {
    let trust = trusted(trust)?;
    let records =
        with(py, feed, |feed| async move { pulse_sync::records(&feed, trust, first, last).await })?;
    Ok(records.iter().map(Record::of).collect())
}

#[pyfunction]
#[pyo3(signature = (feed, *, trust=None, spool=None))]
pub(crate) fn feed_verify<'py>(
    py: Python<'py>,
    feed: &str,
    trust: Option<&str>,
    spool: Option<PathBuf>,
) -> PyResult<Bound<'py, PyDict>> {
    let trust = trusted(trust)?;
    let audit =
        with(
            py,
            feed,
            |feed| async move { pulse_sync::verify(&feed, trust, spool, |_, _| {}).await },
        )?;
    let numbers = [("records", audit.records), ("objects", audit.objects)];
    let fields = numbers.into_py_dict(py)?;
    fields.set_item("bytes", audit.bytes)?;
    fields.set_item("pruned", audit.pruned)?;
    let problems = PyList::empty(py);
    for problem in &audit.problems {
        problems.append(failure::shown(py, problem))?;
    }
    fields.set_item("problems", problems)?;
    Ok(fields)
}

#[pyfunction]
#[pyo3(signature = (feed, *, trust=None, anchors=2, grace=3600.0, spool=None))]
pub(crate) fn feed_prune<'py>(
    py: Python<'py>,
    feed: &str,
    trust: Option<&str>,
    anchors: usize,
    grace: f64,
    spool: Option<PathBuf>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut options = PruneOptions::default().with_anchors(anchors).with_grace(seconds(grace)?);
    (options.trust, options.spool) = (trusted(trust)?, spool);
    let pruned = with(py, feed, |feed| async move { pulse_sync::prune(&feed, &options).await })?;
    let fields = [("objects", pruned.objects), ("bytes", pruned.bytes)].into_py_dict(py)?;
    fields.set_item("floor", pruned.floor)?;
    Ok(fields)
}

#[pyfunction]
#[pyo3(signature = (feed, *, trust=None, spans=None, anchor_every=None, spool=None, threads=0))]
pub(crate) fn feed_compact<'py>(
    py: Python<'py>,
    feed: &str,
    trust: Option<&str>,
    spans: Option<Vec<u64>>,
    anchor_every: Option<u64>,
    spool: Option<PathBuf>,
    threads: usize,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let mut options = CompactOptions::default();
    (options.trust, options.work) = (trusted(trust)?, spool);
    options.spans = spans.unwrap_or(options.spans);
    options.anchor_every = anchor_every.unwrap_or(options.anchor_every);
    if threads > 0 {
        options.threads = threads;
    }
    let made = with(py, feed, |feed| async move { pulse_sync::compact(&feed, &options).await })?;
    let entry = |made: &pulse_sync::Made| {
        let fields = [("version", made.to), ("bytes", made.bytes)].into_py_dict(py)?;
        fields.set_item("start", made.from)?;
        fields.set_item("instead_of", made.instead_of)?;
        Ok(fields)
    };
    made.iter().map(entry).collect()
}

#[pyfunction]
#[pyo3(signature = (feed, to, *, trust=None))]
pub(crate) fn feed_mirror<'py>(
    py: Python<'py>,
    feed: &str,
    to: &str,
    trust: Option<&str>,
) -> PyResult<Bound<'py, PyDict>> {
    let trust = trusted(trust)?;
    let tasks = Tasks::new()?;
    let (from, to) = (open(py, &tasks, feed)?, open(py, &tasks, to)?);
    let done = tasks.run(py, None, || pulse_sync::mirror(&from, &to, trust))?;
    let fields = [("records", done.records), ("objects", done.objects)].into_py_dict(py)?;
    fields.set_item("bytes", done.bytes)?;
    fields.set_item("missing", done.missing)?;
    Ok(fields)
}
