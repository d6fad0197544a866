//! The follower of this crate, as a reader of vectors.

use std::sync::{Arc, Mutex};

use object_store::memory::InMemory;
use object_store::ObjectStoreExt;
use pulse::checkpoint::ApplyOptions;
use pulse::hash::Digest;
use pulse::tensors::Control;
use pulse::Checkpoint;
use pulse_sync::{Error, Event, Feed, Follower, FollowerOptions, Mark, Update, World};

use crate::vector::{MarkOf, Vector};

/// The looks that a reader gets: the first may meet what is wrong, the next ones go around it.
const LOOKS: usize = 5;

#[derive(Debug)]
struct At(u64);

impl World for At {
    fn now(&self) -> u64 {
        self.0
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// What a reader made of a vector.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The version that was served and its digest, or the kind of the refusal.
    pub end: Result<(u64, String), &'static str>,
    pub says: Vec<&'static str>,
    /// The objects of the way.
    pub way: Vec<String>,
    pub mark: Option<Mark>,
}

fn mark(mark: &MarkOf) -> Mark {
    Mark {
        run: mark.run.parse().unwrap(),
        version: mark.version,
        record: bytes(&mark.record),
        key: mark.key.as_ref().map(|key| key.parse().unwrap()),
    }
}

fn bytes(digits: &str) -> Digest {
    Digest(hex::decode(digits).unwrap().try_into().unwrap())
}

/// Kinds of SPEC.md are those of a patch that could not be applied (F30).
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Pulse(error) if error.kind() != "limit" => "result",
        error => error.kind(),
    }
}

pub async fn follow(vector: &Vector) -> Outcome {
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut outcome = Outcome { end: Err("lost"), says: Vec::new(), way: Vec::new(), mark: None };
    outcome.end = try_follow(vector, &said, &mut outcome).await;
    outcome.says = std::mem::take(&mut *said.lock().unwrap());
    outcome
}

async fn try_follow(
    vector: &Vector,
    said: &Arc<Mutex<Vec<&'static str>>>,
    outcome: &mut Outcome,
) -> Result<(u64, String), &'static str> {
    let store = Arc::new(InMemory::new());
    for (name, bytes) in vector.found() {
        store.put(&name.into(), bytes.into()).await.unwrap();
    }
    let feed = Feed::new(store, "", vector.name).with_world(Arc::new(At(vector.now)));
    let (told, now) = (Arc::clone(said), vector.now);
    let mut options = FollowerOptions::default().with_events(move |event| {
        if let Event::Expired { expires, .. } = event {
            told.lock().unwrap().push(if *expires < now { "expired" } else { "future" });
        }
    });
    options.trust = vector.key.as_ref().map(|key| key.parse().unwrap());
    options.at = vector.at;
    let place = tempfile::tempdir().unwrap();
    let held = vector.held_file().map(|(_, bytes)| {
        let path = place.path().join("held.safetensors");
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).unwrap()
    });
    let digest = held.as_ref().map(|held| held.digest(Control::default()).unwrap());
    let follower = Follower::open(&feed, vector.mark.as_ref().map(mark), options).await;
    let mut follower = follower.map_err(|error| kind(&error))?;
    let mut failure = None;
    for _ in 0..LOOKS {
        match follower.look(digest).await {
            Ok(Some(update)) => match make(&update, held.as_ref(), &place) {
                Ok(made) => {
                    follower.served(&update, made).map_err(|error| kind(&error))?;
                    let parts = update.way.parts.iter();
                    outcome.way = parts.map(|part| part.data.object.clone()).collect();
                    outcome.mark = follower.mark().copied();
                    return Ok((update.record.version, made.to_string()));
                }
                Err(error) => {
                    failure.get_or_insert(kind(&error));
                    follower.failed(&update);
                }
            },
            Ok(None) => {
                let head = follower.head().map(|head| (head.version, head.target));
                outcome.mark = follower.mark().copied();
                return match head {
                    Some((version, target)) if digest == Some(target) => {
                        Ok((version, target.to_string()))
                    }
                    _ => Err("lost"),
                };
            }
            Err(error) if error.is_passing() => {
                failure.get_or_insert(kind(&error));
            }
            Err(error) => return Err(kind(&error)),
        }
    }
    Err(failure.unwrap_or("lost"))
}

fn make(
    update: &Update,
    held: Option<&Checkpoint>,
    place: &tempfile::TempDir,
) -> Result<Digest, Error> {
    let out = place.path().join("made.safetensors");
    let base = held.filter(|_| !update.is_whole());
    let options = ApplyOptions::default();
    Ok(update.chain()?.apply(base, &out, options, Control::default())?.target)
}
