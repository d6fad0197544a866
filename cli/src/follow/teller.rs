//! What a follower tells: lines for people or programs, progress on a terminal, metrics.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pulse::checkpoint::FileNote;
use pulse::tensors::Control;
use pulse_sync::{Error, Event, PublicKey, Run, System, Update, World};
use serde_json::{json, Value};

use super::metrics::Metrics;
use crate::progress::{control, Meter};
use crate::{durations, feed, following, text, Common};

/// Seconds of each phase of a switch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seconds {
    pub wait: f64,
    pub fetch: f64,
    pub verify: f64,
    pub switch: f64,
}

impl Seconds {
    pub fn phases(&self) -> [(&'static str, f64); 4] {
        [
            ("{phase=\"wait\"}", self.wait),
            ("{phase=\"fetch\"}", self.fetch),
            ("{phase=\"verify\"}", self.verify),
            ("{phase=\"switch\"}", self.switch),
        ]
    }

    fn add(&mut self, other: &Seconds) {
        self.wait += other.wait;
        self.fetch += other.fetch;
        self.verify += other.verify;
        self.switch += other.switch;
    }
}

pub(super) struct Teller {
    common: Common,
    max_lag: Option<u64>,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
    advance: Box<dyn Fn(u64) -> ControlFlow<()> + Send + Sync>,
    /// It was said that there is nothing new.
    is_idle: AtomicBool,
    /// It was said that it is too far behind.
    is_lagging: AtomicBool,
    /// It was said that the publisher is silent.
    is_expired: AtomicBool,
    refusals: AtomicU64,
}

impl Teller {
    pub fn new(common: &Common, max_lag: Option<u64>, metrics: Arc<Metrics>) -> Self {
        let meter = Arc::<Meter>::default();
        let counted = Arc::clone(&meter);
        let Common { threads, json, quiet } = *common;
        Teller {
            common: Common { threads, json, quiet },
            max_lag,
            metrics,
            meter,
            advance: Box::new(move |bytes| counted.advance(bytes)),
            is_idle: AtomicBool::new(false),
            is_lagging: AtomicBool::new(false),
            is_expired: AtomicBool::new(false),
            refusals: AtomicU64::new(0),
        }
    }

    /// Says it to programs, or to people: `line` goes to standard output.
    fn say(&self, event: &str, mut fields: Value, line: impl FnOnce() -> String) {
        self.meter.end();
        let printed = if self.common.json {
            let mut object = json!({ "event": event });
            if let (Some(object), Some(fields)) = (object.as_object_mut(), fields.as_object_mut()) {
                object.append(fields);
            }
            text::print(&text::visible_json(&format!("{object}\n")))
        } else if self.common.quiet {
            Ok(())
        } else {
            text::print(&(text::clean(&line()) + "\n"))
        };
        // Whoever listened has gone; what is served is served further.
        let _ = printed;
    }

    /// Says what is no success: to people on standard error.
    fn warn(&self, event: &str, fields: Value, line: impl FnOnce() -> String) {
        if self.common.json {
            self.say(event, fields, String::new);
        } else {
            self.meter.end();
            text::note(&line());
        }
    }

    /// Work on the threads that were asked for, which a signal stops.
    pub fn control(&self) -> Control<'_> {
        control(self.common.threads).with_progress(&*self.advance)
    }

    pub fn clear(&self) {
        self.meter.end();
    }

    pub fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    pub fn following(
        &self,
        address: &str,
        run: Option<Run>,
        (key, is_trusted): (Option<PublicKey>, bool),
        metrics: Option<SocketAddr>,
    ) {
        let fields = json!({
            "feed": address,
            "run": run.map(|run| run.to_string()),
            "key": key.map(|key| key.to_string()),
            "trusted": key.is_some() && is_trusted,
            "metrics": metrics.map(|address| address.to_string()),
        });
        if self.common.json {
            self.say("following", fields, String::new);
        } else if !self.common.quiet {
            let signed = match key {
                Some(_) => format!("signed {}", feed::signed(key, is_trusted)),
                None => "unsigned, and as trustworthy as its store".into(),
            };
            text::note(&format!("following {address}; it is {signed}"));
            if let Some(address) = metrics {
                text::note(&format!("metrics are at http://{address}/metrics"));
            }
        }
    }

    /// What the follower of the library tells goes here.
    pub fn listener(self: &Arc<Self>) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let teller = Arc::clone(self);
        move |event| match event {
            Event::Waiting { head, .. } => teller.waiting(*head),
            Event::Refused { error, pause } => teller.refused(error, *pause),
            Event::Planned { version, way } => {
                teller.saw(*version);
                let (parts, bytes) = (way.parts.len() as u64, way.bytes());
                let fields = json!({ "version": version, "parts": parts, "bytes": bytes });
                if teller.common.json {
                    teller.say("planned", fields, String::new);
                }
                teller.is_idle.store(false, Relaxed);
                teller.meter.begin(&teller.common, "fetch", bytes);
            }
            Event::Arrived { bytes } => {
                teller.metrics.numbers().bytes += bytes;
                // A signal ends the waiting for them, not the counting.
                let _ = teller.meter.advance(*bytes);
            }
            Event::Held { record } => {
                let mut numbers = teller.metrics.numbers();
                (numbers.version, numbers.step) = (Some(record.version), record.step);
            }
            Event::Fresh => {
                teller.metrics.numbers().is_expired = false;
                teller.is_expired.store(false, Relaxed);
            }
            Event::Expired { time, expires, now } => teller.expired(*time, *expires, *now),
            _ => {}
        }
    }

    /// The newest version was seen.
    fn saw(&self, head: u64) {
        let behind = {
            let mut numbers = self.metrics.numbers();
            numbers.looked = Some(SystemTime::now());
            numbers.head = Some(numbers.head.map_or(head, |known| known.max(head)));
            let behind = numbers.lag();
            match behind {
                0 => numbers.behind_since = None,
                _ => _ = numbers.behind_since.get_or_insert_with(Instant::now),
            }
            behind
        };
        let Some(most) = self.max_lag else { return };
        if behind <= most {
            self.is_lagging.store(false, Relaxed);
        } else if !self.is_lagging.swap(true, Relaxed) {
            let fields = json!({ "versions": behind, "max_lag": most });
            self.warn("lagging", fields, || {
                format!("{} behind, more than {most}", text::number(behind, "version"))
            });
        }
    }

    pub fn waiting(&self, head: Option<u64>) {
        if let Some(head) = head {
            self.saw(head);
        }
        if self.common.json && !self.is_idle.swap(true, Relaxed) {
            self.say("waiting", json!({ "head": head }), String::new);
        }
    }

    fn expired(&self, time: u64, expires: u64, now: u64) {
        let is_over = expires < now;
        self.metrics.numbers().is_expired = true;
        // Said once, until it has passed.
        if self.is_expired.swap(true, Relaxed) {
            return;
        }
        let fields = json!({ "time": time, "expires": expires, "now": now });
        self.warn("expired", fields, || {
            if is_over {
                return format!(
                    "the publisher was last heard of {} ago, and had promised to be again {} ago: it is down, this \
                     copy of the feed stale, or a clock wrong; what is served is served further",
                    durations::rough(now.saturating_sub(time)),
                    durations::rough(now - expires)
                );
            }
            format!(
                "the publisher's clock is {} ahead of this machine's: one of them is wrong",
                durations::rough(time.saturating_sub(now))
            )
        });
    }

    /// Something failed, and is tried again.
    pub fn refused(&self, error: &Error, pause: Duration) {
        self.refusals.fetch_add(1, Relaxed);
        *self.metrics.numbers().refusals.entry(error.kind()).or_default() += 1;
        let advice = advice(error);
        let fields = json!({
            "kind": error.kind(),
            "message": error.to_string(),
            "advice_text": advice,
            "retry_seconds": pause.as_secs_f64(),
        });
        self.warn("refused", fields, || {
            let advice = advice.map_or(String::new(), |advice| format!("; {advice}"));
            let again = text::seconds(pause.as_secs_f64());
            format!("{error}{advice}; tried again in {again}")
        });
        self.is_idle.store(false, Relaxed);
    }

    /// The version of an update is made and proved.
    pub fn proving(&self, update: &Update) {
        let bytes = update.patches().last().map_or(0, |last| last.footer().target_bytes);
        self.meter.begin(&self.common, "verify", bytes);
    }

    pub fn switched(&self, update: &Update, path: &Path, seconds: &Seconds, head: u64) {
        let record = &update.record;
        let delay = System.now().saturating_sub(record.time) as f64 / 1000.0;
        let lag = {
            let mut numbers = self.metrics.numbers();
            (numbers.version, numbers.step) = (Some(record.version), record.step);
            numbers.delay_seconds = Some(delay);
            numbers.switches += 1;
            numbers.seconds.add(seconds);
            numbers.last = *seconds;
            (numbers.is_expired, numbers.looked) = (false, Some(SystemTime::now()));
            numbers.head = Some(numbers.head.map_or(head, |known| known.max(head)));
            let lag = numbers.lag();
            if lag == 0 {
                numbers.behind_since = None;
            }
            lag
        };
        self.is_expired.store(false, Relaxed);
        let (parts, bytes) = (update.way.parts.len() as u64, update.way.bytes());
        let fields = json!({
            "version": record.version,
            "step": record.step,
            "digest": record.target.to_string(),
            "path": path.display().to_string(),
            "parts": parts,
            "bytes": bytes,
            "lag_versions": lag,
            "delay_seconds": delay,
            "seconds": {
                "wait": seconds.wait,
                "fetch": seconds.fetch,
                "verify": seconds.verify,
                "switch": seconds.switch,
            },
        });
        self.say("switched", fields, || {
            let behind = if lag > 0 { format!("; {lag} behind") } else { String::new() };
            format!(
                "{}: {} fetched in {}, verified in {}, served {} after it was published{behind}",
                feed::version(record),
                text::bytes(bytes),
                text::seconds(seconds.fetch),
                text::seconds(seconds.verify + seconds.switch),
                text::seconds(delay)
            )
        });
    }

    /// Files beside the tensors that are not as the publisher's.
    pub fn notes(&self, notes: &[FileNote]) {
        following::tell(&self.common, notes);
    }

    /// A version that is not there yet is waited for.
    pub fn awaiting(&self, wanted: u64, head: Option<u64>) {
        if self.common.json {
            return self.waiting(head);
        }
        let newest =
            head.map_or("there is none yet".into(), |head| format!("the newest is {head}"));
        text::note(&format!("waiting for version {wanted}; {newest}"));
    }

    /// What is asked for is there.
    pub fn already(&self, version: Option<u64>, destination: &Path, path: &Path) {
        self.metrics.numbers().version = version;
        let fields = json!({ "version": version, "path": path.display().to_string() });
        self.say("already", fields, || {
            let version = version.map_or(String::new(), |version| format!(" {version}"));
            format!("{} is version{version} already", destination.display())
        });
    }

    pub fn ended(&self, version: u64) {
        self.say("ended", json!({ "version": version }), || {
            format!("the run ended with version {version}")
        });
    }

    pub fn executed(&self, ended: io::Result<ExitStatus>, seconds: f64) {
        let is_done = ended.as_ref().is_ok_and(ExitStatus::success);
        if !is_done {
            self.metrics.numbers().exec_failures += 1;
        }
        let (code, message) = match &ended {
            Ok(status) => (status.code(), status.to_string()),
            Err(error) => (None, error.to_string()),
        };
        let fields = json!({ "code": code, "message": message, "seconds": seconds });
        if is_done && self.common.json {
            self.say("executed", fields, String::new);
        } else if !is_done {
            let line = || format!("the command of --exec failed: {message}; following goes on");
            self.warn("executed", fields, line);
        }
    }

    pub fn stopped(&self) {
        if self.common.json {
            self.say("stopped", json!({}), String::new);
        }
    }
}

/// What to do about an error, in the words of the command line.
fn advice(error: &Error) -> Option<String> {
    let is_full = |source: &io::Error| {
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    match error {
        Error::Io { source, .. } if is_full(source) => {
            Some("make room on this disk, or keep fewer versions: --keep 0".into())
        }
        Error::Pulse(pulse::Error::Io { source, .. }) if is_full(source) => {
            Some("make room on this disk, or keep fewer versions: --keep 0".into())
        }
        Error::NoFeed { .. } => Some("was it deleted? what is served is served further".into()),
        // Said as of a file that a user gave.
        Error::Pulse(_) => None,
        error => error.advice(),
    }
}
