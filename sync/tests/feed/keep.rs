//! FEED.md §8: by-products, pruning, copies.

use std::sync::atomic::Ordering::SeqCst;

use pulse::tensors::{Control, Shadow};
use pulse_sync::{
    compact, mirror, prune, status, verify, CompactOptions, PruneOptions, PublisherOptions,
};

use crate::scripted::Cue;
use crate::support::{digest_of, model, record, sealed, weights, Bench, START};

/// A feed of so many versions with an anchor every four.
async fn bench(versions: u64) -> Bench {
    let bench = Bench::new();
    let options = PublisherOptions::default().with_anchor_every(4);
    bench.publisher_with(options).await.publish_all(0..versions).await;
    bench
}

/// What is put now counts as old.
fn a_day_later(bench: &Bench) {
    // The store in memory takes its times from the clock of the machine.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    bench.world.now.store(now.as_millis() as u64 + 24 * 3600 * 1000, SeqCst);
}

#[tokio::test]
async fn f38_skips_lead_over_many_versions_and_are_proved() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..18).await;
    let made = compact(&bench.feed, &CompactOptions::default()).await.unwrap();
    let ends: Vec<_> = made.iter().map(|made| (made.from, made.to)).collect();
    assert_eq!(ends, [(Some(8), 16)]);
    assert!(made[0].bytes < made[0].instead_of.unwrap());
    let again = compact(&bench.feed, &CompactOptions::default()).await.unwrap();
    assert_eq!(again, [], "it is there already");
    let mut reader = bench.follower().await;
    reader.held = Some(model(8));
    let way = reader.follower.plan(Some(digest_of(&model(8)))).await.unwrap();
    assert_eq!((way.parts.len(), way.parts[0].to), (2, 16));
    assert_eq!(reader.look().await.unwrap(), Some(17));
    assert_eq!(reader.held, Some(model(17)));
}

#[tokio::test]
async fn a_compactor_makes_anchors_for_a_publisher_that_does_not() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..10).await;
    let options = CompactOptions::default().with_spans([]).with_anchor_every(5);
    let made = compact(&bench.feed, &options).await.unwrap();
    assert_eq!((made.len(), made[0].from, made[0].to), (1, None, 9));
    let mut reader = bench.follower().await;
    let way = reader.follower.plan(None).await.unwrap();
    assert_eq!((way.parts.len(), way.parts[0].is_recorded), (1, false));
    assert_eq!(reader.look().await.unwrap(), Some(9));
    assert_eq!(reader.held, Some(model(9)));
    // A publisher that starts afterwards records it.
    let mut next = bench.publisher().await;
    next.shadow = shadow(9);
    let published = next.publish(10).await.unwrap();
    assert_eq!((published.record.anchor.version, published.record.patch.is_some()), (9, true));
}

#[tokio::test]
async fn a_run_that_has_ended_is_compacted_like_any_other() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    trainer.publish_all(0..8).await;
    trainer.publisher.end().await.unwrap();
    let options = CompactOptions::default().with_spans([4]).with_anchor_every(2);
    let made = compact(&bench.feed, &options).await.unwrap();
    let ends: Vec<_> = made.iter().map(|made| (made.from, made.to)).collect();
    assert_eq!(ends, [(Some(4), 8), (None, 8)]);
}

/// A publisher that is stopped between the anchor and the next record leaves it to the one that starts next.
#[tokio::test]
async fn an_anchor_that_was_announced_is_recorded_by_the_next_publisher() {
    let bench = Bench::new();
    let options = || PublisherOptions::default().with_anchor_every(3);
    for step in 0..7 {
        let mut trainer = bench.publisher_with(options()).await;
        if step > 0 {
            trainer.shadow = shadow(step - 1);
        }
        let published = trainer.publish(step).await.unwrap();
        let expected = [0, 0, 0, 0, 3, 3, 3][usize::try_from(step).unwrap()];
        assert_eq!(published.record.anchor.version, expected, "version {step}");
        assert_eq!(published.record.patch.is_some(), step > 0);
    }
    // One that says another target than the record of its version is not recorded.
    let objects = bench.objects().await;
    let name = objects.keys().rfind(|name| name.starts_with("anchor/")).unwrap();
    let payload = String::from_utf8(objects[name].clone()).unwrap();
    let payload = payload.lines().next().unwrap();
    let (six, five) = (digest_of(&model(6)).to_string(), digest_of(&model(5)).to_string());
    assert!(payload.contains(&six), "{payload}");
    bench.put(name, sealed(&payload.replace(&six, &five))).await;
    let mut trainer = bench.publisher_with(options()).await;
    trainer.shadow = shadow(6);
    assert_eq!(trainer.publish(7).await.unwrap().record.anchor.version, 3);
}

/// A record vouches for what it names; whoever may put objects is not the publisher.
#[tokio::test]
async fn f9_an_announced_anchor_is_read_before_it_is_recorded() {
    let bench = Bench::new();
    let options = || PublisherOptions::default().with_anchor_every(3);
    bench.publisher_with(options()).await.publish_all(0..4).await;
    let objects = bench.objects().await;
    let name = objects.keys().rfind(|name| name.starts_with("anchor/")).unwrap();
    let payload = String::from_utf8(objects[name].clone()).unwrap();
    let payload = payload.lines().next().unwrap();
    let at = |field: &str| payload.find(field).unwrap() + field.len();
    let (object, sha256) = (at(r#""object":""#), at(r#""sha256":""#));
    let object = payload[object..].split('"').next().unwrap();
    let sha256 = &payload[sha256..sha256 + 64];
    // Of the size and the target that it should have, and its SHA-256 is that of its bytes: it makes another version.
    let mut other = objects[object].clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&other));
    bench.put(object, other).await;
    bench.put(name, sealed(&payload.replace(sha256, &digest))).await;
    let mut trainer = bench.publisher_with(options()).await;
    trainer.shadow = shadow(3);
    assert_eq!(trainer.publish(4).await.unwrap().record.anchor.version, 0);
}

/// The shadow of a trainer that goes on with this version.
fn shadow(version: u64) -> Shadow {
    Shadow::new(&weights(&model(version)), Control::threads(1)).unwrap()
}

#[tokio::test]
async fn f31_by_products_that_lie_are_barred_and_the_chain_is_used() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..18).await;
    compact(&bench.feed, &CompactOptions::default()).await.unwrap();
    // The skip is replaced by one that names the right ends and is another object.
    let objects = bench.objects().await;
    let skip = objects.keys().find(|name| name.starts_with("skip/")).unwrap();
    let text = String::from_utf8(objects[skip].clone()).unwrap();
    let at = text.find("data/").unwrap();
    let object = text[at..].split('"').next().unwrap().to_string();
    let patch = objects.iter().find(|(name, _)| name.starts_with("data/00000000000000000009"));
    let bytes = patch.unwrap().1.clone();
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    let payload = text.lines().next().unwrap();
    let field = |name: &str| {
        let at = payload.find(name).unwrap() + name.len();
        payload[at..].split([',', '"', '}']).next().unwrap().to_string()
    };
    let old_bytes = format!(r#""bytes":{}"#, field(r#""bytes":"#));
    let forged = payload
        .replace(&field(r#""sha256":""#), &digest)
        .replace(&old_bytes, &format!(r#""bytes":{}"#, bytes.len()));
    bench.put(&object, bytes).await;
    bench.put(skip, sealed(&forged)).await;
    let mut reader = bench.follower().await;
    reader.held = Some(model(8));
    assert_eq!(reader.look().await.unwrap_err().kind(), "data");
    assert_eq!(reader.held, Some(model(8)));
    bench.store.asked();
    assert_eq!(reader.look().await.unwrap(), Some(17), "by the chain");
    assert!(
        !bench.store.asked().iter().any(|line| line.contains(&object)),
        "it is not asked for again"
    );
    assert_eq!(reader.held, Some(model(17)));
}

#[tokio::test]
async fn f29_by_products_that_end_elsewhere_than_records_say_are_no_way() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..18).await;
    compact(&bench.feed, &CompactOptions::default()).await.unwrap();
    let objects = bench.objects().await;
    let skip = objects.keys().find(|name| name.starts_with("skip/")).unwrap();
    let other = digest_of(&model(3)).to_string();
    let target = digest_of(&model(16)).to_string();
    bench.edit(skip, &target, &other).await;
    let mut reader = bench.follower().await;
    let way = reader.follower.plan(Some(digest_of(&model(8)))).await.unwrap();
    assert!(way.parts.iter().all(|part| part.is_recorded));
}

#[tokio::test]
async fn f36_pruning_deletes_what_is_below_the_floor_and_nothing_else() {
    let bench = bench(14).await;
    let options = PruneOptions::default().with_anchors(2);
    // Nothing is old enough.
    let pruned = prune(&bench.feed, &options.clone()).await.unwrap();
    assert_eq!((pruned.floor, pruned.objects), (Some(8), 0));
    a_day_later(&bench);
    let before = bench.objects().await;
    let pruned = prune(&bench.feed, &options).await.unwrap();
    assert!(pruned.objects > 0);
    let after = bench.objects().await;
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        let (folder, rest) = name.split_once('/').unwrap();
        assert!(["data", "anchor", "skip"].contains(&folder), "{name}");
        let version: u64 = rest[..20].parse().unwrap();
        assert!(version < 8, "{name}");
    }
    for name in after.keys().filter(|name| name.starts_with("data/")) {
        assert!(name[5..25].parse::<u64>().unwrap() >= 8, "{name}");
    }
    for version in 0..14 {
        assert!(after.contains_key(&record(version)), "records stay");
    }
    // Those who come new, and those who are at the floor, reach the newest version.
    let mut new = bench.follower().await;
    assert_eq!(new.look().await.unwrap(), Some(13));
    let mut at_floor = bench.follower().await;
    at_floor.held = Some(model(8));
    assert_eq!(at_floor.look().await.unwrap(), Some(13));
    // One from before takes the anchor.
    let mut old = bench.follower().await;
    old.held = Some(model(2));
    assert_eq!(old.look().await.unwrap(), Some(13));
    assert_eq!(old.held, Some(model(13)));
    assert_eq!(prune(&bench.feed, &options).await.unwrap().objects, 0);
}

#[tokio::test]
async fn f35_an_anchor_that_is_damaged_is_no_floor() {
    let bench = bench(14).await;
    a_day_later(&bench);
    let objects = bench.objects().await;
    let anchors: Vec<_> = (objects.keys())
        .filter(|name| name.starts_with("data/00000000000000000008"))
        .cloned()
        .collect();
    // The patch to version 8 and its anchor; the larger one is the anchor.
    let anchor = anchors.iter().max_by_key(|name| objects[*name].len()).unwrap();
    let mut damaged = objects[anchor].clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    bench.put(anchor, damaged).await;
    let error = prune(&bench.feed, &PruneOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), "data");
    assert_eq!(bench.objects().await.len(), objects.len(), "nothing is deleted");
    assert!(!bench.objects().await.contains_key("floor.json"));
    bench.delete(anchor).await;
    assert_eq!(prune(&bench.feed, &PruneOptions::default()).await.unwrap_err().kind(), "data");
}

#[tokio::test]
async fn f36_a_listing_that_fails_deletes_nothing() {
    let bench = bench(14).await;
    a_day_later(&bench);
    let before = bench.objects().await;
    bench.store.cue("list", "skip", &[Cue::Fails]);
    assert_eq!(prune(&bench.feed, &PruneOptions::default()).await.unwrap_err().kind(), "store");
    assert_eq!(
        before.keys().filter(|name| *name != "floor.json").count(),
        bench.objects().await.keys().filter(|name| *name != "floor.json").count()
    );
}

#[tokio::test]
async fn f37_a_mirror_is_a_feed_at_every_moment() {
    let source = bench(14).await;
    compact(&source.feed, &CompactOptions::default().with_spans([8])).await.unwrap();
    let copy = Bench::new();
    let done = mirror(&source.feed, &copy.feed, None).await.unwrap();
    assert_eq!(done.records, 14);
    assert_eq!(done.missing, 0);
    assert_eq!(
        copy.objects().await,
        source.objects().await,
        "nothing was pruned: the same objects"
    );
    // Whatever was written before a record was written whole.
    let asked = copy.store.asked();
    let mut puts = asked.iter().filter_map(|line| line.strip_prefix("put run/"));
    assert_eq!(puts.next(), Some("pulse.json"));
    let order: Vec<&str> = puts.collect();
    let at = |text: &str| order.iter().position(|name| name.contains(text)).unwrap();
    for version in 1..14 {
        assert!(at(&format!("data/{version:020}")) < at(&record(version)), "version {version}");
    }
    assert!(at("skip/") > at(&record(13)));
    assert_eq!(order[order.len() - 2..], ["latest.json", "hints.json"]);
    // What comes later is added, and what is cut off is gone on with.
    let mut trainer = source.publisher().await;
    trainer.publish_all([20, 21]).await;
    copy.store.cue("put", &record(15), &[Cue::Denied]);
    assert!(mirror(&source.feed, &copy.feed, None).await.is_err());
    let mut reader = copy.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(14));
    mirror(&source.feed, &copy.feed, None).await.unwrap();
    assert_eq!(reader.look().await.unwrap(), Some(15));
    assert_eq!(reader.held, Some(model(21)));
}

#[tokio::test]
async fn a_mirror_of_another_run_or_past_is_not_written_to() {
    let source = bench(4).await;
    let other = Bench::new();
    other.world.random_run();
    other.publisher().await.publish_all(0..2).await;
    let before = other.objects().await;
    let error = mirror(&source.feed, &other.feed, None).await.unwrap_err();
    assert!(error.kind() == "run" && !error.is_passing(), "{error}");
    assert_eq!(other.objects().await, before);
}

#[tokio::test]
async fn a_mirror_of_a_pruned_feed_has_what_the_feed_has() {
    let source = bench(14).await;
    a_day_later(&source);
    prune(&source.feed, &PruneOptions::default()).await.unwrap();
    let copy = Bench::new();
    let done = mirror(&source.feed, &copy.feed, None).await.unwrap();
    assert_eq!((done.records, done.missing), (14, 0));
    let mut reader = copy.follower().await;
    assert_eq!(reader.look().await.unwrap(), Some(13));
    assert_eq!(reader.held, Some(model(13)));
}

#[tokio::test]
async fn a_feed_is_proved_byte_by_byte() {
    let bench = bench(10).await;
    let audit = verify(&bench.feed, None, None, |_, _| {}).await.unwrap();
    assert_eq!((audit.records, audit.problems.len()), (10, 0), "{:?}", audit.problems);
    // Nine patches, and the anchors of versions 0, 4 and 8; that the last two are by-products as well counts once.
    assert_eq!(audit.objects, 9 + 3);
    let objects = bench.objects().await;
    let data = objects.keys().find(|name| name.starts_with("data/00000000000000000005")).unwrap();
    let mut bytes = objects[data].clone();
    bytes[40] ^= 4;
    bench.put(data, bytes).await;
    let audit = verify(&bench.feed, None, None, |_, _| {}).await.unwrap();
    assert_eq!(audit.problems.len(), 1);
    assert_eq!(audit.problems[0].kind(), "data");
    bench.delete(data).await;
    let audit = verify(&bench.feed, None, None, |_, _| {}).await.unwrap();
    assert!(audit.problems[0].to_string().contains("not there"));
}

#[tokio::test]
async fn status_tells_at_a_glance() {
    let bench = bench(10).await;
    let found = status(&bench.feed, None).await.unwrap();
    assert_eq!((found.head.version, found.head.anchor.version), (9, 8));
    assert_eq!((found.recent.versions, found.now), (9, START));
    assert_eq!(found.join.map(|(parts, _)| parts), Some(2));
    assert_eq!(found.key, None);
}

/// A floor of the run that nobody has read an anchor for.
async fn put_floor(bench: &Bench, version: u64) {
    let run = bench.feed.manifest().await.unwrap().unwrap().run;
    let time = START;
    let payload = format!(r#"{{"type":"floor","run":"{run}","version":{version},"time":{time}}}"#);
    bench.put("floor.json", sealed(&payload)).await;
}

#[tokio::test]
async fn f9_f35_a_floor_that_lies_deletes_nothing() {
    for floor in [9, 12, 13, 1_000, 1 << 53] {
        let bench = bench(14).await;
        a_day_later(&bench);
        put_floor(&bench, floor).await;
        let before = bench.objects().await;
        prune(&bench.feed, &PruneOptions::default()).await.unwrap();
        let after = bench.objects().await;
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            let (_, rest) = name.split_once('/').unwrap();
            assert!(rest[..20].parse::<u64>().unwrap() < 8, "{name}, by floor {floor}");
        }
        let mut new = bench.follower().await;
        assert_eq!(new.look().await.unwrap(), Some(13), "floor {floor}");
    }
}

#[tokio::test]
async fn f35_a_floor_that_is_there_already_spares_no_look_at_its_anchor() {
    let bench = bench(14).await;
    a_day_later(&bench);
    put_floor(&bench, 8).await;
    let objects = bench.objects().await;
    let anchor = (objects.keys())
        .filter(|name| name.starts_with("data/00000000000000000008"))
        .max_by_key(|name| objects[*name].len())
        .unwrap();
    bench.delete(anchor).await;
    assert_eq!(prune(&bench.feed, &PruneOptions::default()).await.unwrap_err().kind(), "data");
    assert_eq!(bench.objects().await.len(), objects.len() - 1, "nothing else is deleted");
}

#[tokio::test]
async fn f9_a_floor_that_lies_excuses_nothing_and_is_not_copied() {
    let bench = bench(14).await;
    put_floor(&bench, 13).await;
    let copy = Bench::new();
    mirror(&bench.feed, &copy.feed, None).await.unwrap();
    let mut new = copy.follower().await;
    assert_eq!(new.look().await.unwrap(), Some(13), "the copy can be joined");
    let newest = bench.objects().await.into_keys().rfind(|name| name.starts_with("data/")).unwrap();
    bench.delete(&newest).await;
    put_floor(&bench, 1_000).await;
    let audit = verify(&bench.feed, None, None, |_, _| {}).await.unwrap();
    assert!(!audit.problems.is_empty());
}

#[tokio::test]
async fn f6_a_mirror_replaces_nothing_for_by_products_that_lie() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..18).await;
    let copy = Bench::new();
    mirror(&bench.feed, &copy.feed, None).await.unwrap();
    compact(&bench.feed, &CompactOptions::default()).await.unwrap();
    // The skip names the data of a version, with what the source shows for it now: so large that it is sent in parts.
    let objects = bench.objects().await;
    let patch = objects.keys().find(|name| name.starts_with("data/00000000000000000016")).unwrap();
    let junk = vec![7; 20 << 20];
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&junk));
    let skip = objects.keys().find(|name| name.starts_with("skip/00000000000000000008")).unwrap();
    let text = String::from_utf8(objects[skip].clone()).unwrap();
    let payload = text.lines().next().unwrap();
    let at = payload.find(r#""data":"#).unwrap();
    let data = format!(
        r#""data":{{"object":"{patch}","sha256":"{digest}","bytes":{},"format":1}}}}"#,
        junk.len()
    );
    bench.put(skip, sealed(&format!("{}{data}", &payload[..at]))).await;
    bench.put(patch, junk).await;
    let before = copy.objects().await;
    mirror(&bench.feed, &copy.feed, None).await.unwrap();
    assert!(copy.objects().await[patch] == before[patch], "it was replaced");
    assert!(!copy.objects().await.contains_key(skip));
}

/// What a copy that was interrupted has put is not copied again, but it is looked at.
#[tokio::test]
async fn a_mirror_takes_no_other_bytes_for_data_because_they_are_as_many() {
    let source = bench(6).await;
    let copy = Bench::new();
    copy.store.cue("put", &record(4), &[Cue::Denied]);
    assert!(mirror(&source.feed, &copy.feed, None).await.is_err());
    let objects = copy.objects().await;
    let data = objects.keys().find(|name| name.starts_with("data/00000000000000000004")).unwrap();
    copy.store.asked();
    copy.put(data, vec![7; objects[data].len()]).await;
    let error = mirror(&source.feed, &copy.feed, None).await.unwrap_err();
    assert!(error.to_string().contains("other bytes of that name"), "{error}");
    assert!(!copy.objects().await.contains_key(&record(4)), "no record without its data");
    copy.put(data, objects[data].clone()).await;
    mirror(&source.feed, &copy.feed, None).await.unwrap();
    let puts = copy.store.asked();
    assert!(!puts.contains(&format!("put run/{data}")), "{puts:?}");
    assert_eq!(copy.follower().await.look().await.unwrap(), Some(5));
}

#[tokio::test]
async fn f9_a_by_product_beyond_the_limits_stops_no_reader() {
    let bench = Bench::new();
    bench.publisher().await.publish_all(0..18).await;
    compact(&bench.feed, &CompactOptions::default()).await.unwrap();
    // A snapshot of so much that this reader refuses it, and smaller than the chain: what the limit of a
    // hostile one would be for all readers.
    let objects = bench.objects().await;
    let skip = objects.keys().find(|name| name.starts_with("skip/00000000000000000008")).unwrap();
    let text = String::from_utf8(objects[skip].clone()).unwrap();
    let at = text.find("data/").unwrap();
    let object = text[at..].split('"').next().unwrap().to_string();
    let limits = pulse::Limits::default().with_target_bytes(1);
    let options = pulse_sync::FollowerOptions::default().with_limits(limits);
    let reader = crate::support::Reader::open(&bench.feed, None, options).await;
    let mut reader = reader.unwrap();
    reader.held = Some(model(8));
    let error = reader.look().await.unwrap_err();
    assert_eq!(error.kind(), "data", "{error}: the next look goes another way");
    bench.store.asked();
    // What records name is beyond this reader's limits as well, which its user hears.
    assert_eq!(reader.look().await.unwrap_err().kind(), "limit");
    assert!(!bench.store.asked().iter().any(|line| line.contains(&object)));
}
