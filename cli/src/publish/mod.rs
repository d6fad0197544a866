//! `pulse publish`: checkpoints to a feed, one version each.

mod kept;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pulse::Checkpoint;
use pulse_sync::{
    prune, DocumentFault, Error, Feed, Mark, PruneOptions, Pruned, Published, Publisher,
    PublisherOptions, SecretKey, System, World,
};
use serde_json::{json, Value};

use self::kept::Kept;
use super::failure::{usage, Failure, Result};
use super::progress::{control, Meter};
use super::{durations, feed, signals, streams, text, Common, Outcome};

/// Clocks may differ by this much, in milliseconds.
const CLOCK_SKEW: u64 = 5 * 60 * 1000;

/// Publish a checkpoint to a feed, as the patch from the version before.
///
/// FEED is s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///path or a path, and is created if it is
/// not there; credentials come from the environment. The first version, and every 50th, is put as an anchor: whole, for
/// those who join. Everybody can have a version as soon as this ends, and nobody sees any of it before.
///
/// The patch starts from --base, or from the copy of the version before that is kept in
/// $XDG_STATE_HOME/pulse/<run>/ (~/.local/state; files with tensors are linked where that is possible). Without either the
/// version before is fetched from the feed. Whatever it is, it is proved before it is used.
///
/// Of two publishers of one feed the one that starts later goes on, and the other one stops at its next version.
///
/// With --watch it publishes every checkpoint that appears in a directory, by the number at the end of its name, such as
/// step_41 or step_41.safetensors, in order, until a signal stops it. One that is half written is waited for. Numbers
/// that are not above the step of the newest version are passed over.
#[derive(Debug, Args)]
#[command(override_usage = "pulse publish [OPTIONS] CHECKPOINT FEED
       pulse publish [OPTIONS] --watch DIR FEED
       pulse publish [OPTIONS] --end FEED")]
#[command(after_help = "Examples:
  pulse publish step_0041.safetensors s3://bucket/run-7
  pulse publish run/step_41/ /srv/feeds/run-7 --step 41 --key trainer.key
  pulse publish --watch run/ s3://bucket/run-7 --key trainer.key --json
  pulse publish final/ /srv/feeds/run-7 --end")]
pub struct Publish {
    /// A .safetensors file or a directory of them.
    #[arg(value_name = "CHECKPOINT")]
    first: PathBuf,
    /// Where the feed is.
    #[arg(value_name = "FEED")]
    second: Option<String>,
    /// Publish every new checkpoint of this directory, for ever.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["step", "base", "end"])]
    watch: Option<PathBuf>,
    /// The optimizer step [default: the number at the end of the name of CHECKPOINT].
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Make an anchor when so many versions have gone by since the last one; 0 makes none but the first.
    #[arg(long, value_name = "N", default_value_t = 50)]
    anchor_every: u64,
    /// Anchors that are kept, and all that comes after the oldest of them; older data is deleted when an anchor was made.
    #[arg(long, value_name = "N|all", default_value = "2", value_parser = parse_keep)]
    keep: Keep,
    /// Sign with this key, which `pulse keygen` made.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Hand the feed over to this key: this version is signed by both, all after it by the new one alone.
    #[arg(long, value_name = "FILE", requires = "key")]
    new_key: Option<PathBuf>,
    /// The checkpoint of the version before.
    #[arg(long, value_name = "CHECKPOINT")]
    base: Option<PathBuf>,
    /// Followers are told to worry if they hear nothing for so long.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = durations::parse)]
    expires: Duration,
    /// End the run: nothing can be published to this feed any more.
    #[arg(long)]
    end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    All,
    Anchors(usize),
}

fn parse_keep(text: &str) -> Result<Keep, String> {
    match (text, text.parse()) {
        ("all", _) => Ok(Keep::All),
        (_, Ok(anchors)) if anchors > 0 => Ok(Keep::Anchors(anchors)),
        _ => Err(format!("{text} is neither a number of anchors, at least 1, nor all")),
    }
}

/// The number at the end of a name: step_41, checkpoint-48.safetensors.
fn step_of(path: &Path) -> Option<u64> {
    // What is given by a link or by "." has a name of its own.
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".safetensors").unwrap_or(name);
    let digits = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    name[digits.len()..].parse().ok().filter(|step| *step <= 1 << 53)
}

impl Publish {
    pub fn run(&self, common: &Common) -> Result<Outcome> {
        let (checkpoint, address) = self.places()?;
        let key = self.key.as_ref().map(SecretKey::load).transpose()?;
        let new_key = self.new_key.as_ref().map(SecretKey::load).transpose()?;
        let checkpoint = checkpoint.map(streams::checkpoint).transpose()?;
        let feed = feed::open(&address)?;
        let _deferred = signals::defer();
        feed::block_on(async {
            let mut session = Session::start(self, common, feed, key).await?;
            if let Some(new_key) = new_key {
                session.hand_over(new_key)?;
            }
            if let Some(directory) = &self.watch {
                return watch::watch(&mut session, directory).await;
            }
            let mut report = json!({});
            let mut text = String::new();
            if let Some(checkpoint) = &checkpoint {
                let step = self.step.or_else(|| step_of(checkpoint.path()));
                let version = session.publish(checkpoint, step).await?;
                (report, text) = (session.json(&version), session.text(&version));
                report["ended"] = self.end.into();
            }
            if self.end {
                feed::or_stopped(async { Ok(session.publisher.end().await?) })
                    .await
                    .map_err(|failure| session.named(failure))?;
                let last = session.publisher.head().map_or(0, |head| head.version);
                text += &format!("the run ended with version {last}\n");
                if checkpoint.is_none() {
                    report =
                        json!({ "feed": session.feed.address(), "version": last, "ended": true });
                }
            }
            Ok(Outcome::new(text, report))
        })
    }

    /// The checkpoint, if there is one, and the feed.
    fn places(&self) -> Result<(Option<&Path>, String)> {
        let alone = self.watch.is_some() || self.end && self.second.is_none();
        match (&self.second, alone) {
            (Some(feed), false) => Ok((Some(&self.first), feed.clone())),
            (None, true) => match self.first.to_str() {
                Some(feed) => Ok((None, feed.into())),
                None => usage("the address of a feed is UTF-8"),
            },
            (None, false) => usage("give FEED, the place to publish to, after CHECKPOINT"),
            (Some(_), true) => usage("--watch takes the place of CHECKPOINT: give FEED alone"),
        }
    }
}

/// A version that was published, and what else was done.
struct Version {
    published: Published,
    /// Where the base came from, in one word.
    base: Option<&'static str>,
    file_bytes: u64,
    pruned: Option<Pruned>,
}

/// A publisher at work.
struct Session<'a> {
    options: &'a Publish,
    common: &'a Common,
    feed: Feed,
    publisher: Publisher,
    kept: Option<Kept>,
    key: Option<SecretKey>,
    meter: Arc<Meter>,
}

impl<'a> Session<'a> {
    async fn start(
        options: &'a Publish,
        common: &'a Common,
        feed: Feed,
        key: Option<SecretKey>,
    ) -> Result<Self> {
        let meter = Arc::<Meter>::default();
        let told = Arc::clone(&meter);
        let mut choices = PublisherOptions::default()
            .with_anchor_every(options.anchor_every)
            .with_expires(options.expires)
            .with_threads(feed::threads(common))
            .with_progress(move |bytes| told.advance(bytes));
        choices.key.clone_from(&key);
        let start = async { Ok(Publisher::start(&feed, choices).await?) };
        let named = |failure| named(&feed, options, failure);
        let publisher = feed::or_stopped(start).await.map_err(named)?;
        let (now, ahead) = (System.now(), publisher.head().map_or(0, |head| head.time));
        let session = Session { options, common, feed, publisher, kept: None, key, meter };
        if ahead > now.saturating_add(CLOCK_SKEW) {
            session.warn(&format!(
                "the newest version was published {} in the future: a clock is wrong, perhaps that of this machine",
                durations::rough(ahead - now)
            ));
        }
        let kept = Kept::open(session.publisher.run()).or_else(|error| {
            session.warn(&format!(
                "what is published is not kept for the next call, which will fetch it from the feed: {error}"
            ));
            Kept::temporary()
        });
        Ok(Session { kept: kept.ok(), ..session })
    }

    fn hand_over(&mut self, key: SecretKey) -> Result<()> {
        if self.publisher.head().is_none() {
            return usage(
                "--new-key: the feed has no version yet; sign it with the new key from the start",
            );
        }
        Ok(self.publisher.hand_over(key)?)
    }

    fn warn(&self, message: &str) {
        // With --json, standard error is for a failure alone.
        if !self.common.json {
            self.meter.end();
            text::note(message);
        }
    }

    fn named(&self, failure: Failure) -> Failure {
        named(&self.feed, self.options, failure)
    }

    /// Whether the feed is still the one that was begun with: of a version in one that was deleted nobody could make
    /// anything.
    async fn look_after_feed(&self) -> Result<()> {
        let expected = self.publisher.run();
        match self.feed.manifest().await {
            Ok(Some(found)) if found.run != expected => {
                let fault = DocumentFault::Run { expected, found: found.run };
                Err(self.named(Error::Document { object: "pulse.json".into(), fault }.into()))
            }
            Ok(None) => {
                let error = Error::NoFeed { store: self.feed.address().into() };
                let advice = "it was deleted under way: start again to begin a new one, or publish to another place";
                Err(self.named(Failure::advised(error, advice)))
            }
            // What is wrong with the store shows in what comes next.
            _ => Ok(()),
        }
    }

    /// Publishes one checkpoint.
    async fn publish(&mut self, target: &Checkpoint, step: Option<u64>) -> Result<Version> {
        let before = self.publisher.head().map(|head| head.anchor.version);
        let (published, base) = self.put(target, step).await.map_err(|it| self.named(it))?;
        self.meter.end();
        let mut version =
            Version { base, file_bytes: target.file_bytes(), pruned: None, published };
        self.keep(target, &mut version.published.warnings);
        let anchor = version.published.record.anchor.version;
        if let (Keep::Anchors(anchors), true) =
            (self.options.keep, before.is_some_and(|before| before < anchor))
        {
            let mut options = PruneOptions::default().with_anchors(anchors);
            options.trust = self.key.as_ref().map(SecretKey::public);
            match prune(&self.feed, &options).await {
                Ok(pruned) => version.pruned = Some(pruned),
                Err(error) => {
                    let warning = format!("old data was not deleted: {error}");
                    version.published.warnings.push(warning);
                }
            }
        }
        version.published.warnings.iter().for_each(|warning| self.warn(warning));
        Ok(version)
    }

    /// Keeps what was published as the next base.
    fn keep(&self, target: &Checkpoint, warnings: &mut Vec<String>) {
        let (Some(kept), Some(mark)) = (&self.kept, self.publisher.mark()) else { return };
        if let Err(error) = tokio::task::block_in_place(|| kept.replace(target, &mark)) {
            warnings.push(format!("it is not kept as the next base: {error}"));
        }
    }

    async fn put(
        &mut self,
        target: &Checkpoint,
        step: Option<u64>,
    ) -> Result<(Published, Option<&'static str>)> {
        let Some(mark) = self.publisher.mark() else {
            return Ok((self.put_from(None, target, step).await?, None));
        };
        if let Some(base) = &self.options.base {
            let base = streams::checkpoint(base)?;
            let published = self.put_from(Some(&base), target, step).await?;
            return Ok((published, Some("given")));
        }
        if let Some(base) = self.kept.as_ref().and_then(|kept| kept.of(&mark)) {
            // It is proved by the digest that is computed of it anyway.
            match self.put_from_path(&base, target, step).await {
                Err(Failure::Feed { error, .. }) if matches!(*error, Error::Base { .. }) => {
                    self.kept.as_ref().map_or(Ok(()), Kept::was_changed)?;
                    self.warn("the copy that is kept of the version before was changed; it is fetched again");
                }
                Err(Failure::Library { error, .. }) if is_of_base(&error, &base) => {
                    self.warn(&format!(
                        "the copy that is kept cannot be used: {error}; it is fetched again"
                    ));
                }
                other => return Ok((other?, Some("kept"))),
            }
        }
        match self.fetch(&mark).await {
            Ok(Some(base)) => {
                // A link to one of its files may have gone, which shows in its times.
                let target = &Checkpoint::open(target.path())?;
                let published = self.put_from_path(&base, target, step).await?;
                return Ok((published, Some("feed")));
            }
            Ok(None) => {}
            Err(failure) if failure.is_stopped() => return Err(failure),
            Err(failure) => self.warn(&format!(
                "the version before could not be fetched: {}; this one is put whole",
                failure.message()
            )),
        }
        Ok((self.put_from(None, target, step).await?, None))
    }

    /// Fetches the newest version, to start from it; `None` if there is no place for it.
    async fn fetch(&self, mark: &Mark) -> Result<Option<PathBuf>> {
        let Some(kept) = &self.kept else { return Ok(None) };
        let trust = self.key.as_ref().map(SecretKey::public);
        let fetched = kept.follow(&self.feed, mark, trust, control(self.common.threads));
        feed::or_stopped(async { Ok(Some(fetched.await?)) }).await
    }

    async fn put_from_path(
        &mut self,
        base: &Path,
        target: &Checkpoint,
        step: Option<u64>,
    ) -> Result<Published> {
        let base = Checkpoint::open(base)?;
        self.put_from(Some(&base), target, step).await
    }

    async fn put_from(
        &mut self,
        base: Option<&Checkpoint>,
        target: &Checkpoint,
        step: Option<u64>,
    ) -> Result<Published> {
        let bytes = base.map_or(0, Checkpoint::tensor_bytes);
        self.meter.begin(self.common, "publish", target.tensor_bytes().saturating_add(bytes));
        let head = self.publisher.head().map(|head| head.target);
        let published = self.publisher.publish_checkpoint(base.zip(head), target, step);
        let done = feed::or_stopped(async { Ok(published.await?) }).await;
        self.meter.end();
        done
    }

    /// What is said of a version, for people.
    fn text(&self, version: &Version) -> String {
        let Version { published, file_bytes, .. } = version;
        let record = &published.record;
        let full = format!("full {}", text::bytes(*file_bytes));
        let what = match feed::kind(record) {
            "patch" => text::size(published.bytes, *file_bytes, &full),
            "anchor" => {
                format!("{}, whole: an anchor", text::size(published.bytes, *file_bytes, &full))
            }
            _ => "nothing changed".into(),
        };
        let mut facts = vec![
            ("feed", self.feed.address().to_string()),
            ("published", feed::version(record)),
            ("size", what),
        ];
        if let Some(report) = &published.report {
            facts.push(("changes", super::writing::changes(&report.summary.footer)));
        }
        if let Some(pruned) = version.pruned.as_ref().filter(|pruned| pruned.objects > 0) {
            let objects = text::number(pruned.objects, "object");
            facts.push(("deleted", format!("{objects}, {}", text::bytes(pruned.bytes))));
        }
        let (made, put) = published.seconds;
        let key = self.key.as_ref().map(SecretKey::public);
        facts.extend([
            ("signed", feed::signed(key, true)),
            ("time", text::seconds(made + put)),
            ("digest", record.target.to_string()),
        ]);
        text::facts(&facts)
    }

    /// The same for programs.
    fn json(&self, version: &Version) -> Value {
        let Version { published, base, file_bytes, pruned } = version;
        let record = &published.record;
        let footer = published.report.as_ref().map(|report| report.summary.footer);
        json!({
            "feed": self.feed.address(),
            "run": record.run.to_string(),
            "version": record.version,
            "step": record.step,
            "digest": record.target.to_string(),
            "kind": feed::kind(record),
            "base": base,
            "bytes": published.bytes,
            "target_file_bytes": file_bytes,
            "changes": footer.map(|footer| footer.changes),
            "target_elements": footer.map(|footer| footer.target_elements),
            "anchor": record.anchor.version,
            "epoch": record.epoch,
            "key": self.key.as_ref().map(|key| key.public().to_string()),
            "seconds": { "data": published.seconds.0, "record": published.seconds.1 },
            "pruned": pruned.as_ref().map(|pruned| json!({
                "floor": pruned.floor, "objects": pruned.objects, "bytes": pruned.bytes,
            })),
            "warnings": published.warnings,
        })
    }
}

/// Whether the fault is with the base: what was to be published is another file.
fn is_of_base(error: &pulse::Error, base: &Path) -> bool {
    error.file().is_some_and(|file| file.starts_with(base))
}

/// A failure that says which feed it is about, and what to do in the words of the command line.
fn named(feed: &Feed, options: &Publish, failure: Failure) -> Failure {
    let Failure::Feed { error, hint, .. } = failure else { return failure };
    let hint = hint.or_else(|| match &*error {
        Error::Document { fault: DocumentFault::Unsigned(_), .. } if options.key.is_none() => {
            Some("the feed is signed: give the key that signs it with --key".into())
        }
        Error::Document { fault: DocumentFault::NoKey(_), .. } => Some(
            "an unsigned feed stays unsigned: leave out --key, or publish to a new feed".into(),
        ),
        Error::Base { .. } => Some(
            "give the checkpoint of the newest version with --base, or leave out --base".into(),
        ),
        _ => None,
    });
    Failure::Feed { feed: Some(feed.address().into()), error, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_at_the_end_of_names() {
        for (name, step) in [
            ("run/step_41", Some(41)),
            ("checkpoint-0048.safetensors", Some(48)),
            ("7", Some(7)),
            ("step_41.tmp", None),
            ("model.safetensors", None),
            ("step_99999999999999999999", None),
        ] {
            assert_eq!(step_of(Path::new(name)), step, "{name}");
        }
    }
}
