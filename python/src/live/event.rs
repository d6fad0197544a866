//! What a follower meets, as Python is told of it.

use pulse_sync::Event;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::live::failure;

/// Tells of an event. What the callback raises is shown, and stops nothing.
pub(super) fn tell(event: &Event<'_>, callback: &Py<PyAny>) {
    Python::attach(|py| {
        let told = fields(py, event).and_then(|fields| callback.call1(py, (fields,)));
        if let Err(error) = told {
            error.write_unraisable(py, Some(callback.bind(py)));
        }
    });
}

fn fields<'py>(py: Python<'py>, event: &Event<'_>) -> PyResult<Bound<'py, PyDict>> {
    let named = |name: &str| [("event", name)].into_py_dict(py);
    let seconds = |milliseconds: u64| milliseconds as f64 / 1000.0;
    match event {
        Event::Waiting { head, pause } => {
            let fields = named("waiting")?;
            fields.set_item("version", head)?;
            fields.set_item("pause", pause.as_secs_f64())?;
            Ok(fields)
        }
        Event::Refused { error, pause } => {
            let fields = named("refused")?;
            fields.set_item("error", failure::shown(py, error))?;
            fields.set_item("pause", pause.as_secs_f64())?;
            Ok(fields)
        }
        Event::Planned { version, way } => {
            let fields = named("planned")?;
            fields.set_item("version", version)?;
            fields.set_item("parts", way.parts.len())?;
            fields.set_item("bytes", way.bytes())?;
            Ok(fields)
        }
        Event::Held { record } => {
            let fields = named("held")?;
            fields.set_item("version", record.version)?;
            Ok(fields)
        }
        Event::Expired { time, expires, now } => {
            let fields = named("expired")?;
            fields.set_item("time", seconds(*time))?;
            fields.set_item("expires", seconds(*expires))?;
            fields.set_item("now", seconds(*now))?;
            Ok(fields)
        }
        Event::Fresh => named("fresh"),
        // Events of a later version of the library.
        _ => named("other"),
    }
}
