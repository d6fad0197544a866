//! FEED.md §4 and §7: what readers take for the newest version, and how they get there.

use pulse::dtype::{Dtype, TensorSpec};
use pulse::tensors::{
    Control, PrepareOptions, Prepared, Shadow, TensorMut, TensorRef, Weights, WeightsMut,
};
use pulse_sync::{Error, Follower, FollowerOptions, Publisher, PublisherOptions};

use crate::scripted::Cue;
use crate::support::{model, record, sealed, Bench, Reader, START};

/// A feed of so many versions.
async fn bench(versions: u64) -> Bench {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..versions).await;
    bench
}

/// The kind of error with which a reader that comes new refuses the feed.
async fn refusal(bench: &Bench) -> &'static str {
    match Reader::open(&bench.feed, None, FollowerOptions::default()).await {
        Err(error) => error.kind(),
        Ok(mut reader) => match reader.look().await {
            Err(error) => error.kind(),
            Ok(found) => panic!("version {found:?} was taken"),
        },
    }
}

#[tokio::test]
async fn where_there_is_no_feed_a_reader_says_so() {
    let bench = Bench::new();
    let error = Reader::open(&bench.feed, None, FollowerOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), "no-feed");
    assert!(error.to_string().contains("memory"));
}

#[tokio::test]
async fn a_feed_without_a_version_is_waited_for() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    let mut reader = bench.follower().await;
    assert_eq!(reader.look().await.unwrap(), None);
    trainer.publish(0).await.unwrap();
    assert_eq!(reader.look().await.unwrap(), Some(0));
}

#[tokio::test]
async fn f3_a_document_that_is_too_large_is_not_read() {
    let bench = bench(2).await;
    let long = format!(r#"{{"type":"record","x":"{}"}}"#, "x".repeat(70_000));
    bench.put(&record(2), sealed(&long)).await;
    assert_eq!(refusal(&bench).await, "limit");
}

#[tokio::test]
async fn f4_every_changed_bit_of_a_record_is_noticed() {
    let bench = bench(2).await;
    let original = bench.objects().await.remove(&record(1)).unwrap();
    for bit in (0..8 * original.len()).step_by(5) {
        let mut bytes = original.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bench.put(&record(1), bytes).await;
        let kind = refusal(&bench).await;
        assert!(["malformed", "seal"].contains(&kind), "bit {bit}: {kind}");
    }
}

#[tokio::test]
async fn f5_fields_that_are_unknown_are_ignored() {
    let bench = bench(1).await;
    bench.edit("pulse.json", r#""minor":0"#, r#""minor":7,"colour":{"a":[null,"x"]}"#).await;
    assert_eq!(bench.follower().await.look().await.unwrap(), Some(0));
}

#[tokio::test]
async fn f7_a_record_of_another_number_or_run_is_refused() {
    let bench = bench(3).await;
    let second = bench.objects().await.remove(&record(2)).unwrap();
    bench.put(&record(3), second).await;
    assert_eq!(refusal(&bench).await, "malformed");
    bench.delete(&record(3)).await;
    let other = Bench::new();
    other.world.random_run();
    other.publisher().await.publish_all(0..4).await;
    let foreign = other.objects().await.remove(&record(3)).unwrap();
    bench.put(&record(3), foreign).await;
    assert_eq!(refusal(&bench).await, "run");
}

#[tokio::test]
async fn f7_no_name_leads_out_of_the_feed() {
    for name in ["data/../../secret", "/etc/passwd", "log/00000000000000000001.json", "data/1-2"] {
        let bench = bench(2).await;
        let text = String::from_utf8(bench.objects().await.remove(&record(1)).unwrap()).unwrap();
        let at = text.find("data/00000000000000000001").unwrap();
        let object = text[at..].split('"').next().unwrap().to_string();
        bench.edit(&record(1), &object, name).await;
        assert_eq!(refusal(&bench).await, "malformed", "{name}");
    }
}

#[tokio::test]
async fn f8_a_feed_of_another_major_version_is_refused() {
    let bench = bench(1).await;
    bench.edit("pulse.json", r#""major":1"#, r#""major":2"#).await;
    assert_eq!(refusal(&bench).await, "version");
}

#[tokio::test]
async fn f9_hints_help_and_are_never_needed_nor_believed() {
    let run = |bench: &Bench| {
        let feed = bench.feed.clone();
        async move { feed.manifest().await.unwrap().unwrap().run.to_string() }
    };
    let bench = bench(5).await;
    let run = run(&bench).await;
    let digest = "11".repeat(32);
    let latest = |version: u64| {
        sealed(&format!(
            r#"{{"type":"latest","run":"{run}","version":{version},"record":"{digest}","time":1,"expires":2}}"#
        ))
    };
    for hint in [latest(0), latest(3), latest(400), "rubbish".into(), String::new()] {
        bench.put("latest.json", hint.clone()).await;
        bench.put("hints.json", hint.clone()).await;
        bench.put("floor.json", hint.clone()).await;
        let mut reader = bench.follower().await;
        assert_eq!(reader.look().await.unwrap(), Some(4), "{hint}");
    }
    for name in ["latest.json", "hints.json", "floor.json"] {
        bench.delete(name).await;
    }
    assert_eq!(bench.follower().await.look().await.unwrap(), Some(4));
}

#[tokio::test]
async fn f10_f11_a_record_that_contradicts_itself_is_refused() {
    let base = r#""base":""#;
    let cases: [(u64, &str, &str); 7] = [
        (0, r#""epoch":1"#, r#""epoch":0"#),
        (1, r#""previous":"#, r#""before":"#),
        (1, r#""patch":{"#, r#""path":{"#),
        (1, r#""anchor":{"version":0"#, r#""anchor":{"version":2"#),
        (1, r#""anchor":{"version":0"#, r#""rekeyed":2,"anchor":{"version":0"#),
        (1, r#""anchor":{"version":0"#, r#""rekeyed":1,"anchor":{"version":0"#),
        (0, r#""target":"#, r#""patch":{"object":"x"},"target":"#),
    ];
    for (version, from, to) in cases {
        let bench = bench(2).await;
        bench.edit(&record(version), from, to).await;
        assert_eq!(refusal(&bench).await, "malformed", "{from} to {to}");
    }
    // A patch that changes nothing.
    let bench = bench(2).await;
    let text = String::from_utf8(bench.objects().await.remove(&record(1)).unwrap()).unwrap();
    let digest = |field: &str| {
        let at = text.find(field).unwrap() + field.len();
        text[at..at + 64].to_string()
    };
    let (old, new) = (digest(base), digest(r#""target":""#));
    bench.edit(&record(1), &format!(r#""target":"{new}"#), &format!(r#""target":"{old}"#)).await;
    assert_eq!(refusal(&bench).await, "malformed");
}

#[tokio::test]
async fn f12_a_record_follows_the_one_before_it() {
    let cases =
        [(r#""epoch":1"#, r#""epoch":9"#, "epoch"), (r#""base":""#, r#""base":"00"#, "malformed")];
    for (from, to, kind) in cases {
        let bench = bench(4).await;
        // What comes after it does not know it.
        bench.edit(&record(2), from, to).await;
        let found = refusal(&bench).await;
        assert!([kind, "chain"].contains(&found), "{from}: {found}");
    }
    // A writer that was fenced: an epoch that is lower than the one before.
    let bench = bench(3).await;
    let mut late = bench.publisher().await;
    late.publisher.claim().await.unwrap();
    late.publish_all(3..5).await;
    bench.edit(&record(5), r#""epoch":2"#, r#""epoch":1"#).await;
    assert_eq!(refusal(&bench).await, "epoch");
}

#[tokio::test]
async fn f12_f13_every_digest_that_leads_back_is_compared() {
    for field in ["previous", "back", "base"] {
        let bench = bench(7).await;
        let text = String::from_utf8(bench.objects().await.remove(&record(6)).unwrap()).unwrap();
        let marker = format!(r#""{field}":""#);
        let at = text.find(&marker).unwrap() + marker.len();
        let digest = text[at..at + 64].to_string();
        let other = "ab".repeat(32);
        bench.edit(&record(6), &format!("{marker}{digest}"), &format!("{marker}{other}")).await;
        assert_eq!(refusal(&bench).await, "chain", "{field}");
    }
}

#[tokio::test]
async fn f13_many_versions_are_linked_by_few_records() {
    let bench = bench(1).await;
    let mut trainer = bench.publisher().await;
    // Versions that change nothing are as good for this.
    for _ in 0..300 {
        trainer.publish(0).await.unwrap();
    }
    trainer.publish(1).await.unwrap();
    let mut early = bench.follower().await;
    early.look().await.unwrap();
    let mark = *early.follower.mark().unwrap();
    let mark_at_17 = {
        let at = FollowerOptions::default().with_at(17);
        let mut reader = Reader::open(&bench.feed, None, at).await.unwrap();
        reader.look().await.unwrap();
        *reader.follower.mark().unwrap()
    };
    assert_eq!((mark.version, mark_at_17.version), (301, 17));
    bench.store.asked();
    let options = FollowerOptions::default();
    Reader::open(&bench.feed, Some(mark_at_17), options).await.unwrap();
    let asked = bench.store.asked();
    let records = asked.iter().filter(|line| line.contains("log/")).count();
    assert!(records < 45, "{records} of 301 records were read");
}

#[tokio::test]
async fn f27_a_feed_that_shows_less_or_another_past_is_refused_and_serving_goes_on() {
    let bench = bench(6).await;
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    let mark = *reader.follower.mark().unwrap();
    let held = reader.held.clone();
    let objects = bench.objects().await;
    // A stale mirror.
    let stale = Bench::new();
    for (name, bytes) in &objects {
        if name != &record(5) && name != "latest.json" {
            stale.put(name, bytes.clone()).await;
        }
    }
    let opened = Reader::open(&stale.feed, Some(mark), FollowerOptions::default()).await;
    assert!(matches!(opened.err(), Some(Error::RolledBack { mark: 5, head: 4 })));
    // The same run with another past: of the same publisher's pen, if the feed is unsigned.
    let fork = Bench::new();
    for (name, bytes) in &objects {
        if !name.starts_with("log/") || name < &record(3) {
            fork.put(name, bytes.clone()).await;
        }
    }
    fork.delete("latest.json").await;
    let mut other = fork.publisher().await;
    other.publish_all([30, 31, 32, 33, 34]).await;
    let opened = Reader::open(&fork.feed, Some(mark), FollowerOptions::default()).await;
    assert!(matches!(opened.err(), Some(Error::Forked { version: 5, .. })));
    assert_eq!(reader.held, held);
    // The same reader sees it while it runs.
    for (name, bytes) in fork.objects().await {
        bench.put(&name, bytes).await;
    }
    bench.delete(&record(6)).await;
    let error = reader.look().await.err();
    assert!(error.is_none() || error.unwrap().kind() == "chain");
    assert_eq!(reader.held, held);
}

#[tokio::test]
async fn f28_an_older_version_is_served_only_to_who_asks_for_it() {
    let bench = bench(6).await;
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    let mark = *reader.follower.mark().unwrap();
    let options = FollowerOptions::default().with_at(2);
    let mut back = Reader::open(&bench.feed, Some(mark), options).await.unwrap();
    back.held = reader.held.clone();
    assert_eq!(back.look().await.unwrap(), Some(2));
    assert_eq!(back.held, Some(model(2)));
}

#[tokio::test]
async fn f29_data_is_compared_before_anything_is_made_of_it() {
    let bench = bench(3).await;
    let objects = bench.objects().await;
    let data = |version: u64| {
        let stem = format!("data/{version:020}");
        objects.keys().find(|name| name.starts_with(&stem)).unwrap().clone()
    };
    let mut reader = bench.follower().await;
    reader.held = Some(model(0));
    // Another object, a cut one, an empty one, a longer one, a changed one.
    let original = &objects[&data(1)];
    let mut changed = original.clone();
    changed[original.len() / 2] ^= 1;
    let longer = [&original[..], b"x"].concat();
    let cut = original[..original.len() - 1].to_vec();
    for bytes in [&objects[&data(2)], &cut, &Vec::new(), &longer, &changed] {
        bench.put(&data(1), bytes.clone()).await;
        let mut reader = bench.follower().await;
        reader.held = Some(model(0));
        assert_eq!(reader.look().await.unwrap_err().kind(), "data");
        assert_eq!(reader.held, Some(model(0)));
    }
    bench.put(&data(1), original.clone()).await;
    assert_eq!(reader.look().await.unwrap(), Some(2));
}

/// Tensors of one shape.
fn named<'a>(tensors: &'a [(String, Vec<u8>)], spec: &TensorSpec) -> Weights<'a> {
    let tensors = tensors
        .iter()
        .map(|(name, bytes)| (name.as_str(), TensorRef::new(spec.clone(), bytes).unwrap()));
    tensors.collect()
}

#[tokio::test]
async fn f29_what_is_made_while_data_arrives_is_used_only_if_it_is_that_data() {
    // Enough that tensors are made before the last byte is there.
    let tensors = |step: u8| -> Vec<(String, Vec<u8>)> {
        let tensor = |number: u8| {
            let mut bytes: Vec<u8> = (0..24u32 << 20).map(|at| (at >> 9) as u8 ^ number).collect();
            bytes.iter_mut().step_by(1_009).for_each(|byte| *byte ^= step);
            (format!("w{number}"), bytes)
        };
        (0..3).map(tensor).collect()
    };
    let spec = TensorSpec::new(Dtype::U8, &[24 << 20]).unwrap();
    let bench = Bench::new();
    let (first, second) = (tensors(0), tensors(1));
    let (old, new) = (named(&first, &spec), named(&second, &spec));
    let mut publisher = Publisher::start(&bench.feed, PublisherOptions::default()).await.unwrap();
    let control = Control::threads(2);
    let mut shadow = Shadow::new(&old, control).unwrap();
    let held = publisher.publish(&mut shadow, &old, Some(0)).await.unwrap().record.target;
    let mut follower = Follower::open(&bench.feed, None, FollowerOptions::default()).await.unwrap();
    publisher.publish(&mut shadow, &new, Some(1)).await.unwrap();

    let objects = bench.objects().await;
    let name = objects.keys().find(|name| name.starts_with("data/00000000000000000001")).unwrap();
    let original = objects[name].clone();
    let mut other = original.clone();
    *other.last_mut().unwrap() ^= 1;
    bench.put(name, other).await;
    let options = PrepareOptions::default();
    let error = follower.look_beside(&old, held, options, control).await.unwrap_err();
    assert_eq!(error.kind(), "data");

    bench.put(name, original).await;
    let update = follower.look_beside(&old, held, options, control).await.unwrap().unwrap();
    let mut made = first.clone();
    let mut weights: WeightsMut<'_> = (made.iter_mut())
        .map(|(name, bytes)| (name.as_str(), TensorMut::new(spec.clone(), bytes).unwrap()))
        .collect();
    // Once with what was made meanwhile, and once more without: the same.
    let ahead = update.prepare(&old, options, control).unwrap();
    let again = update.prepare(&old, options, control).unwrap();
    let changes = |prepared: &Prepared| -> Vec<_> {
        prepared.tensors().map(|tensor| (tensor.name().to_string(), tensor.changes())).collect()
    };
    assert_eq!((ahead.report(), changes(&ahead)), (again.report(), changes(&again)));
    let report = ahead.commit(&mut weights, control).unwrap();
    follower.served(&update, report.target).unwrap();
    assert!(made == second);
}

#[tokio::test]
async fn f30_what_was_made_has_the_digest_that_its_record_names() {
    let bench = bench(3).await;
    let mut reader = bench.follower().await;
    let update = reader.follower.look(None).await.unwrap().unwrap();
    let other = crate::support::digest_of(&model(9));
    let error = reader.follower.served(&update, other).unwrap_err();
    assert!(matches!(error, Error::Wrong { version: 2, .. }));
    assert_eq!(reader.follower.mark(), None);
}

#[tokio::test]
async fn f32_if_the_newest_cannot_be_reached_the_newest_that_can_is_served() {
    let bench = bench(5).await;
    let objects = bench.objects().await;
    let lost = objects.keys().find(|name| name.starts_with("data/00000000000000000003"));
    bench.delete(lost.unwrap()).await;
    let mut reader = bench.follower().await;
    let mut tries = 0;
    while reader.look().await.is_err() {
        tries += 1;
        assert!(tries < 5);
    }
    assert_eq!(reader.held, Some(model(2)));
    assert_eq!(reader.look().await.unwrap_err().kind(), "lost");
    assert_eq!(reader.held, Some(model(2)), "and is served further");
    // The publisher's next anchor helps.
    let mut trainer = bench.publisher_with(PublisherOptions::default()).await;
    trainer.publish(9).await.unwrap();
    assert_eq!(reader.look().await.unwrap(), Some(5));
    assert_eq!(reader.held, Some(model(9)));
}

#[tokio::test(start_paused = true)]
async fn f34_a_hint_that_is_old_or_of_the_future_is_told_and_stops_nothing() {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::{Arc, Mutex};
    let day = 24 * 3600 * 1000;
    for (now, expected) in [(START, 0), (START + 2 * day, 1), (START - day, 1)] {
        let bench = bench(2).await;
        bench.world.now.store(now, SeqCst);
        let told = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&told);
        let options = FollowerOptions::default().with_events(move |event| {
            if matches!(event, pulse_sync::Event::Expired { .. }) {
                *counted.lock().unwrap() += 1;
            }
        });
        let mut reader = Reader::open(&bench.feed, None, options).await.unwrap();
        assert_eq!(reader.look().await.unwrap(), Some(1));
        assert_eq!(*told.lock().unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_waited_for() {
    let bench = bench(3).await;
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    let mut trainer = bench.publisher().await;
    trainer.shadow = Shadow::new(&crate::support::weights(&model(2)), Default::default()).unwrap();
    trainer.publish(3).await.unwrap();
    bench.store.cue("get", "log/", &[Cue::Fails; 5]);
    bench.store.cue("get", "data/", &[Cue::Fails; 2]);
    let update = reader.follower.next(reader.digest()).await.unwrap();
    assert_eq!(update.record.version, 3);
}

#[tokio::test(start_paused = true)]
async fn who_waits_long_asks_seldom() {
    let bench = bench(2).await;
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    bench.store.asked();
    let waiting = reader.follower.next(reader.held.as_deref().map(crate::support::digest_of));
    let hour = std::time::Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, waiting).await.is_err());
    let asked = bench.store.asked().len();
    // Every ten seconds in the end, and the hint once a minute.
    assert!((300..1200).contains(&asked), "{asked} requests in an hour");
}

#[tokio::test]
async fn the_cheapest_way_in_bytes_is_taken() {
    let bench = Bench::new();
    let mut trainer = bench.publisher_with(PublisherOptions::default().with_anchor_every(4)).await;
    trainer.publish_all(0..11).await;
    let mut reader = bench.follower().await;
    let way = reader.follower.plan(None).await.unwrap();
    let ends: Vec<_> = way.parts.iter().map(|part| (part.from, part.to)).collect();
    assert_eq!(ends, [(None, 8), (Some(8), 9), (Some(9), 10)]);
    let held = crate::support::digest_of(&model(7));
    let way = reader.follower.plan(Some(held)).await.unwrap();
    assert_eq!(way.parts.first().unwrap().from, Some(7), "patches are smaller than an anchor");
}

#[tokio::test(start_paused = true)]
async fn f29_a_store_that_sends_more_than_was_asked_for_is_not_listened_to() {
    let bench = bench(1).await;
    let mut reader = bench.follower().await;
    bench.store.asked();
    bench.store.cue("get", "data/", &[Cue::SendsMore; 8]);
    assert_eq!(reader.look().await.unwrap_err().kind(), "data");
    let asked = bench.store.asked();
    let count = |verb: &str| asked.iter().filter(|line| line.starts_with(verb)).count();
    assert_eq!((count("get run/data/"), count("piece ")), (8, 8), "one piece shows it");
    assert_eq!(reader.look().await.unwrap(), Some(0));
}
