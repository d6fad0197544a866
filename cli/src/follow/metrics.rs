//! Numbers of a follower for Prometheus, over the smallest part of HTTP that it needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::teller::Seconds;
use crate::failure::Result;

/// Bytes of a request that are read, at most.
const REQUEST_BYTES: usize = 8192;
/// What is read and thrown away of a longer one.
const REST_BYTES: u64 = 1 << 16;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub version: Option<u64>,
    pub step: Option<u64>,
    pub head: Option<u64>,
    /// Since when there is a newer version than the one that is served.
    pub behind_since: Option<Instant>,
    pub delay_seconds: Option<f64>,
    pub switches: u64,
    pub bytes: u64,
    /// Of all switches, and of the last one.
    pub seconds: Seconds,
    pub last: Seconds,
    pub refusals: BTreeMap<&'static str, u64>,
    pub exec_failures: u64,
    pub is_expired: bool,
    pub looked: Option<SystemTime>,
}

impl Numbers {
    pub fn lag(&self) -> u64 {
        let served = self.version.map_or(0, |version| version + 1);
        self.head.map_or(0, |head| (head + 1).saturating_sub(served))
    }
}

#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Numbers>);

impl Metrics {
    pub fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text that Prometheus reads.
    fn page(&self) -> String {
        let numbers = self.numbers();
        let mut page = Page(String::new());
        let integer = |number: u64| number as f64;
        page.gauge("version", "The version that is served.", numbers.version.map(integer));
        page.gauge("step", "Its optimizer step.", numbers.step.map(integer));
        page.gauge("head_version", "The newest version that is known.", numbers.head.map(integer));
        page.gauge(
            "lag_versions",
            "Versions behind the newest one that is known.",
            Some(integer(numbers.lag())),
        );
        let behind = numbers.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        page.gauge(
            "lag_seconds",
            "Seconds since a newer version than the one served is known; 0 if none is.",
            Some(behind),
        );
        page.gauge(
            "delay_seconds",
            "Seconds from the record of the version that is served to its switch, by the clocks of both machines.",
            numbers.delay_seconds,
        );
        let looked = numbers.looked.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        page.gauge(
            "last_look_timestamp_seconds",
            "When the feed was last read without an error.",
            looked.map(|since| since.as_secs_f64()),
        );
        page.gauge(
            "latest_expired",
            "1 if the publisher has promised to say something by now and has not.",
            Some(f64::from(u8::from(numbers.is_expired))),
        );
        page.counter(
            "updates_total",
            "Switches to another version.",
            &[("", integer(numbers.switches))],
        );
        page.counter("bytes_total", "Bytes that were fetched.", &[("", integer(numbers.bytes))]);
        page.counter("phase_seconds_total", "Seconds in each phase.", &numbers.seconds.phases());
        page.metric(
            "last_phase_seconds",
            "Seconds of each phase of the last switch.",
            "gauge",
            &numbers.last.phases(),
        );
        // Of every kind, so that the first one is a rise.
        let mut refusals: BTreeMap<_, _> =
            pulse_sync::Error::KINDS.iter().map(|kind| (*kind, 0)).collect();
        refusals.extend(numbers.refusals.iter().map(|(kind, count)| (*kind, *count)));
        let refusals =
            refusals.iter().map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), integer(*count)));
        let refusals: Vec<_> = refusals.collect();
        let refusals: Vec<_> =
            refusals.iter().map(|(label, count)| (label.as_str(), *count)).collect();
        page.counter("refused_total", "What failed or was refused, by kind.", &refusals);
        page.counter(
            "exec_failures_total",
            "Commands of --exec that failed.",
            &[("", integer(numbers.exec_failures))],
        );
        page.0
    }
}

struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, help: &str, kind: &str, values: &[(&str, f64)]) {
        let name = format!("pulse_{name}");
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        let values: Vec<_> = value.map(|value| ("", value)).into_iter().collect();
        self.metric(name, help, "gauge", &values);
    }

    fn counter(&mut self, name: &str, help: &str, values: &[(&str, f64)]) {
        self.metric(name, help, "counter", values);
    }
}

/// Serves the metrics from a thread of its own; gives back where.
pub(super) fn serve(at: SocketAddr, metrics: &Arc<Metrics>) -> Result<SocketAddr> {
    let failed = |source| {
        let doing = format!("serving metrics at {at}");
        pulse::Error::Io { doing, path: None, source }
    };
    let listener = TcpListener::bind(at).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let metrics = Arc::clone(metrics);
    let work = move || {
        for client in listener.incoming() {
            match client {
                // A client that goes away has its reasons.
                Ok(client) => _ = answer(client, &metrics),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    std::thread::Builder::new().name("metrics".into()).spawn(work).map_err(failed)?;
    Ok(address)
}

fn answer(mut client: TcpStream, metrics: &Metrics) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let (status, body) = match path(&mut client)?.as_deref() {
        Some("/metrics") => ("200 OK", metrics.page()),
        Some(_) => ("404 Not Found", "metrics are at /metrics\n".into()),
        None => ("400 Bad Request", "this answers GET of /metrics, and nothing else\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    // Closed with something unread, the answer could be lost as well.
    let mut rest = client.take(REST_BYTES);
    io::copy(&mut rest, &mut io::sink()).map(|_| ())
}

/// The path that is asked for; none if it is no request that can be answered.
fn path(client: &mut TcpStream) -> io::Result<Option<String>> {
    let (mut request, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    let mut piece = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = client.read(&mut piece)?;
        request.extend_from_slice(&piece[..read]);
        if read == 0 || request.len() > REQUEST_BYTES || Instant::now() > deadline {
            return Ok(None);
        }
    }
    let request = String::from_utf8_lossy(&request);
    let mut words = request.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next(), words.next());
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let path = target.and_then(|target| target.split('?').next()).map(String::from);
    Ok(path.filter(|_| method == Some("GET") && is_http))
}
