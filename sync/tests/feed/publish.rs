//! FEED.md §6: how versions come into being.

use std::time::Duration;

use pulse::tensors::{diff, Control, TensorSource};
use pulse::{Limits, Patch};
use pulse_sync::{Error, PublisherOptions};

use crate::scripted::Cue;
use crate::support::{digest_of, model, record, weights, Bench, Trainer};

#[tokio::test]
async fn every_version_arrives_bit_for_bit() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    let mut reader = bench.follower().await;
    for step in 0..6 {
        let published = trainer.publish(step).await.unwrap();
        assert_eq!(published.record.version, step);
        assert_eq!(published.record.step, Some(step));
        assert_eq!(published.warnings, Vec::<String>::new());
        assert_eq!(reader.look().await.unwrap(), Some(step));
        assert_eq!(reader.held.as_deref(), Some(&model(step)[..]));
    }
    assert_eq!(reader.look().await.unwrap(), None, "nothing is new");
}

#[tokio::test]
async fn f18_data_is_there_whole_before_its_record() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..2).await;
    let asked = bench.store.asked();
    let at = |verb: &str, name: &str| {
        let found = asked.iter().position(|line| line.starts_with(verb) && line.contains(name));
        found.unwrap_or_else(|| panic!("{verb} {name} in {asked:#?}"))
    };
    let data = "data/00000000000000000001";
    assert!(at("put", data) < at("head", data));
    assert!(at("head", data) < at("put", &record(1)));
    // If it is not, there is no record.
    bench.store.cue("put", "data/00000000000000000002", &[Cue::NotDoneButExists]);
    assert_eq!(trainer.publish(2).await.unwrap_err().kind(), "data");
    assert!(!bench.objects().await.contains_key(&record(2)));
    trainer.publish_all(2..4).await;
}

#[tokio::test(start_paused = true)]
async fn f19_a_put_without_a_clear_answer_is_cleared_up_first() {
    use Cue::{DoneButExists, DoneButFails, Fails, NotDoneButExists};
    let scripts: [&[Cue]; 6] = [
        &[DoneButFails],
        &[DoneButExists],
        &[NotDoneButExists, NotDoneButExists],
        &[Fails, NotDoneButExists, DoneButFails],
        &[Fails, Fails, Fails],
        &[DoneButFails, Fails],
    ];
    for cues in scripts {
        let bench = Bench::new();
        let mut trainer = bench.publisher().await;
        trainer.publish_all(0..2).await;
        bench.store.cue("put", &record(2), cues);
        let published = trainer.publish(2).await.unwrap();
        assert_eq!(published.record.version, 2, "{cues:?}");
        trainer.publish_all(3..5).await;
        let mut reader = bench.follower().await;
        assert_eq!(reader.look().await.unwrap(), Some(4));
        assert_eq!(reader.held, Some(model(4)), "{cues:?}");
        // It is there once.
        let records = bench.objects().await;
        assert_eq!(records.keys().filter(|name| name.starts_with("log/")).count(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn f19_a_publisher_that_gave_up_waiting_goes_on_with_the_same_record() {
    let bench = Bench::new();
    let options = PublisherOptions::default().with_patience(Duration::from_secs(5));
    let mut trainer = bench.publisher_with(options).await;
    trainer.publish_all(0..2).await;
    // It landed, but nobody says so, and nobody can read it.
    bench.store.cue("put", &record(2), &[Cue::DoneButFails]);
    bench.store.cue("put", &record(2), &[Cue::Fails; 50]);
    bench.store.cue("get", &record(2), &[Cue::Fails; 50]);
    assert_eq!(trainer.publish(2).await.unwrap_err().kind(), "store");
    let stuck = bench.objects().await.remove(&record(2)).unwrap();
    let after = Bench { store: bench.store.clone(), ..Bench::new() };
    drop(after);
    // The weights have gone on meanwhile: what was on its way is a version, and these are the next.
    let mut tries = 0;
    let published = loop {
        tries += 1;
        match trainer.publish(3).await {
            Ok(published) => break published,
            Err(error) => assert_eq!(error.kind(), "store"),
        }
        assert!(tries < 50);
    };
    assert_eq!(published.record.version, 3);
    assert_eq!(bench.objects().await[&record(2)], stuck);
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    assert_eq!(reader.held, Some(model(3)));
}

#[tokio::test]
async fn f20_ranks_that_publish_the_same_are_both_right() {
    let bench = Bench::new();
    let mut one = bench.publisher().await;
    one.publish_all(0..1).await;
    let mut other = bench.publisher().await;
    other.shadow = pulse::tensors::Shadow::new(&weights(&model(0)), Default::default()).unwrap();
    // The other one has a higher epoch, and still: it is the same step to the same weights.
    let first = other.publish(1).await.unwrap();
    let second = one.publish(1).await.unwrap();
    assert_eq!((first.record.version, second.record.version), (1, 1));
    assert_eq!(first.record, second.record);
}

#[tokio::test]
async fn f21_a_version_that_failed_is_part_of_the_next_patch() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..2).await;
    bench.store.cue("put", &record(2), &[Cue::Denied]);
    assert_eq!(trainer.publish(2).await.unwrap_err().kind(), "store");
    assert_eq!(trainer.shadow.digests().checkpoint, digest_of(&model(1)));
    let published = trainer.publish(3).await.unwrap();
    assert_eq!(published.record.version, 2);
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    assert_eq!(reader.held, Some(model(3)));
}

#[tokio::test]
async fn f22_after_data_that_is_gone_comes_an_anchor() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..3).await;
    let objects = bench.objects().await;
    let data = objects.keys().find(|name| name.starts_with("data/00000000000000000002"));
    bench.delete(data.unwrap()).await;
    let published = trainer.publish(3).await.unwrap();
    assert_eq!(published.record.anchor.version, 3);
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(3));
    assert_eq!(reader.held, Some(model(3)));
}

#[tokio::test]
async fn f23_a_store_that_replaces_what_it_was_to_create_is_refused() {
    let bench = Bench::new();
    bench.store.cue("put", "data/", &[Cue::Replaces; 4]);
    let error = Trainer::start(&bench.feed, PublisherOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), "conditions");
    assert!(error.advice().unwrap().contains("conditional writes"));
    assert_eq!(bench.objects().await.len(), 0, "nothing is left behind");
    // One that says that it exists, and replaces it all the same.
    bench.store.cue("put", "data/", &[Cue::Well, Cue::Replaces, Cue::Well, Cue::Replaces]);
    let error = Trainer::start(&bench.feed, PublisherOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), "conditions");
    bench.publisher().await;
}

/// As when a pruner whose clock is a day wrong deletes the object between the two creates.
#[tokio::test]
async fn f23_a_store_is_not_refused_for_what_a_keeper_deleted() {
    let bench = Bench::new();
    bench.store.cue("put", "data/", &[Cue::Replaces, Cue::Replaces]);
    bench.publisher().await.publish_all(0..2).await;
}

#[tokio::test]
async fn f24_f25_a_publisher_that_starts_fences_the_one_before() {
    let bench = Bench::new();
    let mut old = bench.publisher().await;
    old.publish_all(0..3).await;
    let mut new = bench.publisher().await;
    new.publisher.claim().await.unwrap();
    assert_eq!(new.publisher.head().unwrap().version, 3);
    assert!(!new.publisher.head().unwrap().is_change());
    let error = old.publish(3).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { version: 3, epoch: 1, other_epoch: 2, .. }), "{error}");
    assert!(old.publish(4).await.is_err(), "and it stays so");
    new.publish_all(5..7).await;
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(5));
    assert_eq!(reader.held, Some(model(6)));
}

#[tokio::test]
async fn f25_what_a_publisher_of_a_lower_epoch_put_meanwhile_is_built_upon() {
    let bench = Bench::new();
    let mut old = bench.publisher().await;
    old.publish_all(0..2).await;
    let mut new = bench.publisher().await;
    // Between its start and its first version the old one was faster.
    old.publish_all(2..3).await;
    let published = new.publish(7).await.unwrap();
    assert_eq!((published.record.version, published.record.epoch), (3, 2));
    assert_eq!(old.publish(3).await.unwrap_err().kind(), "fenced");
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    assert_eq!(reader.held, Some(model(7)));
}

#[tokio::test]
async fn f24_of_two_that_start_at_once_one_goes_on() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..2).await;
    let (mut one, mut other) = (bench.publisher().await, bench.publisher().await);
    one.publisher.claim().await.unwrap();
    assert_eq!(other.publisher.claim().await.unwrap_err().kind(), "fenced");
    one.publish_all(3..5).await;
}

#[tokio::test]
async fn weights_that_did_not_change_are_a_version_without_data() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all([0, 1, 1, 1]).await;
    let objects = bench.objects().await;
    assert_eq!(objects.keys().filter(|name| name.starts_with("data/")).count(), 2);
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(3));
    assert_eq!(reader.held, Some(model(1)));
    trainer.publish_all([1]).await;
    assert_eq!(reader.look().await.unwrap(), None, "the weights are the same");
    assert_eq!(reader.follower.mark().unwrap().version, 4, "and count as the newest version");
}

#[tokio::test]
async fn a_trainer_that_goes_back_publishes_one_more_version() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all([0, 1, 2, 3, 1]).await;
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(4));
    assert_eq!(reader.held, Some(model(1)));
}

#[tokio::test]
async fn anchors_are_made_when_they_are_due_and_recorded_in_the_next_version() {
    let bench = Bench::new();
    let options = PublisherOptions::default().with_anchor_every(3);
    let mut trainer = bench.publisher_with(options).await;
    let mut anchors = Vec::new();
    for step in 0..9 {
        anchors.push(trainer.publish(step).await.unwrap().record.anchor.version);
    }
    assert_eq!(anchors, [0, 0, 0, 0, 3, 3, 3, 6, 6]);
    // Before it is recorded it is a by-product already.
    let objects = bench.objects().await;
    assert_eq!(objects.keys().filter(|name| name.starts_with("anchor/")).count(), 2);
}

#[tokio::test]
async fn f12_a_run_that_has_ended_takes_no_version_more() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..2).await;
    trainer.publisher.end().await.unwrap();
    trainer.publisher.end().await.unwrap();
    assert_eq!(trainer.publish(2).await.unwrap_err().kind(), "ended");
    let error = Trainer::start(&bench.feed, PublisherOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), "ended");
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(2));
    assert_eq!(reader.look().await.unwrap_err().kind(), "ended", "nothing comes any more");
}

#[tokio::test]
async fn f26_a_hint_that_cannot_be_put_is_no_failure() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    bench.store.cue("put", "latest.json", &[Cue::Fails, Cue::Denied]);
    for step in 0..2 {
        let published = trainer.publish(step).await.unwrap();
        assert_eq!(published.warnings.len(), 1, "{:?}", published.warnings);
    }
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(1));
}

#[tokio::test]
async fn f6_what_is_written_once_is_never_replaced() {
    let bench = Bench::new();
    let mut trainer = bench.publisher_with(PublisherOptions::default().with_anchor_every(2)).await;
    let mut before = std::collections::BTreeMap::new();
    for step in 0..7 {
        trainer.publish(step).await.unwrap();
        let after = bench.objects().await;
        for (name, bytes) in &before {
            if !["latest.json", "hints.json"].contains(&String::as_str(name)) {
                assert_eq!(after.get(name), Some(bytes), "{name}");
            }
        }
        before = after;
    }
}

/// What takes long can be left to a task of its own.
#[tokio::test]
async fn publishing_and_following_can_be_spawned() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    let trainer = tokio::spawn(async move {
        trainer.publish_all(0..3).await;
        trainer.publisher.end().await.unwrap();
    });
    trainer.await.unwrap();
    let mut reader = bench.follower().await;
    let reader = tokio::spawn(async move {
        reader.look().await.unwrap();
        reader.held
    });
    assert_eq!(reader.await.unwrap(), Some(model(2)));
}

/// Every reader reaches the newest version, and it is this one.
async fn all_can_read(bench: &Bench, version: u64) {
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(version));
    assert_eq!(reader.held, Some(model(version)));
}

#[tokio::test]
async fn f25_a_publisher_that_published_what_a_later_one_did_is_fenced_then() {
    let bench = Bench::new();
    let mut one = bench.publisher().await;
    one.publish_all(0..1).await;
    let mut other = bench.publisher().await;
    other.shadow = pulse::tensors::Shadow::new(&weights(&model(0)), Default::default()).unwrap();
    other.publish(1).await.unwrap();
    // The same step to the same weights is no failure. What comes next would be of an epoch that is over.
    one.publish(1).await.unwrap();
    assert_eq!(one.publish(2).await.unwrap_err().kind(), "fenced");
    assert_eq!(one.publisher.end().await.unwrap_err().kind(), "misuse");
    assert!(!bench.objects().await.contains_key(&record(2)));
    other.publish(2).await.unwrap();
    all_can_read(&bench, 2).await;
}

#[tokio::test]
async fn f2_a_step_beyond_the_numbers_is_refused_before_its_record_is_there_for_ever() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..1).await;
    for step in [(1 << 53) + 1, u64::MAX] {
        let weights = model(1);
        let weights = crate::support::weights(&weights);
        let published = trainer.publisher.publish(&mut trainer.shadow, &weights, Some(step)).await;
        assert_eq!(published.unwrap_err().kind(), "misuse");
    }
    assert!(!bench.objects().await.contains_key(&record(1)));
    trainer.publish(1).await.unwrap();
    all_can_read(&bench, 1).await;
}

#[tokio::test]
async fn f6_numbers_that_end_end_publishing_and_not_reading() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..1).await;
    // Whoever wrote this: no epoch comes after it.
    bench.edit(&record(0), r#""epoch":1,"#, r#""epoch":9007199254740992,"#).await;
    let mut next = bench.publisher().await;
    assert_eq!(next.publish(1).await.unwrap_err().kind(), "misuse");
    assert!(!bench.objects().await.contains_key(&record(1)));
    all_can_read(&bench, 0).await;
}

/// The patch between two models, as ranks would have joined it.
fn made(base: Option<u64>, target: u64) -> Patch {
    let (base, target) = (base.map(model), model(target));
    let base = base.as_ref().map(|bytes| weights(bytes));
    let base = base.as_ref().map(|weights| weights as &dyn TensorSource);
    let mut patch = Vec::new();
    diff(base, &weights(&target), &mut patch, Default::default(), Control::threads(1)).unwrap();
    Patch::from_bytes(patch, Limits::default()).unwrap()
}

#[tokio::test]
async fn a_patch_that_was_made_elsewhere_is_published() {
    let bench = Bench::new();
    let mut publisher = bench.publisher().await.publisher;
    let error = publisher.publish_patch(&made(Some(0), 1), Some(1)).await.unwrap_err();
    assert_eq!(error.kind(), "misuse", "the first version needs an anchor: {error}");
    assert!(publisher.publish_patch(&made(None, 0), Some(0)).await.unwrap().record.patch.is_none());
    let published = publisher.publish_patch(&made(Some(0), 1), Some(1)).await.unwrap();
    assert_eq!((published.record.version, published.record.patch.is_some()), (1, true));
    // One that starts from other weights reaches no store.
    bench.store.asked();
    let error = publisher.publish_patch(&made(Some(0), 2), Some(2)).await.unwrap_err();
    assert!(matches!(error, Error::Base { version: 1, .. }), "{error}");
    assert!(!bench.store.asked().iter().any(|line| line.starts_with("put ")));
    // A snapshot is an anchor, whatever was there before.
    let published = publisher.publish_patch(&made(None, 2), Some(2)).await.unwrap();
    assert_eq!((published.record.anchor.version, published.record.patch.is_some()), (2, false));
    publisher.publish_patch(&made(Some(2), 3), Some(3)).await.unwrap();
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(3));
    assert_eq!(reader.held, Some(model(3)));
}

#[tokio::test]
async fn f22_a_patch_that_readers_cannot_come_to_is_not_published() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..3).await;
    let objects = bench.objects().await;
    let data = objects.keys().find(|name| name.starts_with("data/00000000000000000002")).unwrap();
    bench.delete(data).await;
    let error = trainer.publisher.publish_patch(&made(Some(2), 3), Some(3)).await.unwrap_err();
    assert!(error.to_string().contains("publish a snapshot"), "{error}");
    trainer.publisher.publish_patch(&made(None, 3), Some(3)).await.unwrap();
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(3));
}

#[tokio::test]
async fn tensors_that_are_not_those_of_the_version_before_are_told() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..2).await;
    let bytes = model(2);
    let (publisher, shadow) = (&mut trainer.publisher, &mut trainer.shadow);
    let shorter = weights(&bytes[..bytes.len() - 2]);
    let published = publisher.publish(shadow, &shorter, None).await.unwrap();
    let [warning] = &published.warnings[..] else { panic!("{:?}", published.warnings) };
    assert!(warning.contains("0 are new, 0 gone, and 1 of another dtype or shape"), "{warning}");
    // Then they are again.
    let published = publisher.publish(shadow, &shorter, None).await.unwrap();
    assert_eq!(published.warnings, Vec::<String>::new());
}
