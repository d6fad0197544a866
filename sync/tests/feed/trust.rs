//! FEED.md §5: who may say what the versions are.

use pulse_sync::{FollowerOptions, PublicKey, PublisherOptions, SecretKey};

use crate::support::{model, record, sealed, Bench, Reader, Trainer};

fn signed(bench: &Bench) -> (SecretKey, PublisherOptions) {
    let key = SecretKey::generate(bench.world.as_ref());
    (key.clone(), PublisherOptions::default().with_key(key))
}

async fn open(bench: &Bench, key: PublicKey) -> Result<Reader, &'static str> {
    let options = FollowerOptions::default().with_trust(key);
    Reader::open(&bench.feed, None, options).await.map_err(|error| error.kind())
}

/// The document with the signatures of another one.
async fn unsign(bench: &Bench, name: &str) {
    let text = String::from_utf8(bench.objects().await.remove(name).unwrap()).unwrap();
    bench.put(name, sealed(text.lines().next().unwrap())).await;
}

#[tokio::test]
async fn a_signed_feed_is_followed_by_its_key() {
    let bench = Bench::new();
    let (key, options) = signed(&bench);
    bench.publisher_with(options).await.publish_all(0..4).await;
    let mut reader = open(&bench, key.public()).await.ok().unwrap();
    assert_eq!(reader.look().await.unwrap(), Some(3));
    assert_eq!(reader.follower.key(), Some(key.public()));
    assert_eq!(reader.follower.mark().unwrap().key, Some(key.public()));
    // Without a key, the store is trusted for it.
    assert_eq!(bench.follower().await.look().await.unwrap(), Some(3));
}

#[tokio::test]
async fn f14_what_is_not_signed_is_refused() {
    for name in [record(0), record(1), record(2), "pulse.json".into()] {
        let bench = Bench::new();
        let (key, options) = signed(&bench);
        bench.publisher_with(options).await.publish_all(0..3).await;
        unsign(&bench, &name).await;
        let found = match open(&bench, key.public()).await {
            Ok(mut reader) => reader.look().await.unwrap_err().kind(),
            Err(kind) => kind,
        };
        assert_eq!(found, "unsigned", "{name}");
    }
}

#[tokio::test]
async fn f14_a_forged_record_is_refused_whoever_seals_it() {
    let bench = Bench::new();
    let (key, options) = signed(&bench);
    bench.publisher_with(options).await.publish_all(0..3).await;
    let mut reader = open(&bench, key.public()).await.ok().unwrap();
    reader.look().await.unwrap();
    // Somebody with the right to write to the store, and a key of their own.
    let forger = Bench::new();
    forger.world.random_run();
    let (_, options) = signed(&forger);
    for (name, bytes) in bench.objects().await {
        forger.put(&name, bytes).await;
    }
    assert!(Trainer::start(&forger.feed, options).await.is_err(), "it is not their feed");
    unsign(&bench, &record(2)).await;
    let text = String::from_utf8(bench.objects().await.remove(&record(2)).unwrap()).unwrap();
    let payload = text.lines().next().unwrap();
    let next = payload.replace(r#""version":2"#, r#""version":3"#);
    bench.put(&record(3), sealed(&next)).await;
    let kind = reader.look().await.unwrap_err().kind();
    assert!(["unsigned", "malformed"].contains(&kind), "{kind}");
}

#[tokio::test]
async fn f15_the_key_is_the_readers_choice() {
    let bench = Bench::new();
    let (_, options) = signed(&bench);
    bench.publisher_with(options).await.publish_all(0..2).await;
    let other = SecretKey::generate(bench.world.as_ref());
    assert_eq!(open(&bench, other.public()).await.err(), Some("signature"));
    let unsigned = Bench::new();
    unsigned.publisher().await.publish_all(0..2).await;
    assert_eq!(open(&unsigned, other.public()).await.err(), Some("unsigned"));
}

#[tokio::test]
async fn f15_a_feed_that_was_signed_stays_signed() {
    let bench = Bench::new();
    let (key, options) = signed(&bench);
    bench.publisher_with(options).await.publish_all(0..3).await;
    // Followed without a key: it belongs to the mark from then on.
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    let mark = *reader.follower.mark().unwrap();
    assert_eq!(mark.key, Some(key.public()));
    let text = String::from_utf8(bench.objects().await.remove("pulse.json").unwrap()).unwrap();
    let payload = text.lines().next().unwrap();
    let at = payload.find(r#","key""#).unwrap();
    bench.put("pulse.json", sealed(&format!("{}}}", &payload[..at]))).await;
    let error = Reader::open(&bench.feed, Some(mark), FollowerOptions::default()).await.err();
    assert_eq!(error.unwrap().kind(), "unsigned");
}

#[tokio::test(start_paused = true)]
async fn f16_f17_a_key_hands_over_to_another() {
    let bench = Bench::new();
    let (first, options) = signed(&bench);
    let mut trainer = bench.publisher_with(options.clone()).await;
    trainer.publish_all(0..3).await;
    let mut early = open(&bench, first.public()).await.ok().unwrap();
    early.look().await.unwrap();
    let mut keys = vec![first.clone()];
    for turn in 0..3u64 {
        let next = SecretKey::generate(bench.world.as_ref());
        trainer.publisher.hand_over(next.clone()).unwrap();
        trainer.publish_all(3 + 2 * turn..5 + 2 * turn).await;
        keys.push(next);
    }
    // By whichever key one begins, and for one who is there all the time.
    for key in &keys {
        let mut reader = open(&bench, key.public()).await.ok().unwrap();
        assert_eq!(reader.look().await.unwrap(), Some(8));
        assert_eq!(reader.held, Some(model(8)));
    }
    // The first look takes the next version at once, the second all that have come since.
    assert_eq!(early.look().await.unwrap(), Some(3));
    assert_eq!(early.look().await.unwrap(), Some(8));
    assert_eq!(early.follower.key(), Some(keys[3].public()));
    // A publisher with the old key is nobody.
    let error = Trainer::start(&bench.feed, options).await.err().unwrap();
    assert_eq!(error.kind(), "key");
    assert!(error.to_string().contains("has handed over to"), "{error}");
    let options = PublisherOptions::default().with_key(keys[3].clone());
    let mut again = bench.publisher_with(options).await;
    again.publish(9).await.unwrap();
    assert_eq!(early.look().await.unwrap(), Some(9));
}

#[tokio::test]
async fn f16_a_record_signed_by_an_old_key_alone_is_refused() {
    let bench = Bench::new();
    let (_, options) = signed(&bench);
    let mut trainer = bench.publisher_with(options).await;
    trainer.publish_all(0..3).await;
    // What the old key can still sign: the versions before the change, and what would come after them.
    let fork = Bench::new();
    for (name, bytes) in bench.objects().await {
        fork.put(&name, bytes).await;
    }
    let mut reader = bench.follower().await;
    reader.look().await.unwrap();
    trainer.publisher.hand_over(SecretKey::generate(bench.world.as_ref())).unwrap();
    trainer.publish_all(3..5).await;
    reader.look().await.unwrap();
    // The change itself signed by the old key alone.
    unsign(&bench, &record(3)).await;
    let kind = match Reader::open(&bench.feed, None, FollowerOptions::default()).await {
        Ok(mut reader) => reader.look().await.unwrap_err().kind(),
        Err(error) => error.kind(),
    };
    assert_eq!(kind, "unsigned");
}

#[tokio::test]
async fn an_unsigned_feed_has_no_key_to_hand_over() {
    let bench = Bench::new();
    let mut trainer = bench.publisher().await;
    let key = SecretKey::generate(bench.world.as_ref());
    assert_eq!(trainer.publisher.hand_over(key).unwrap_err().kind(), "misuse");
}

#[tokio::test]
async fn f16_after_a_change_of_keys_by_a_fenced_publisher_nothing_is_signed_by_the_old_one() {
    let bench = Bench::new();
    let (_, options) = signed(&bench);
    let mut first = bench.publisher_with(options.clone()).await;
    first.publish_all(0..2).await;
    let mut second = bench.publisher_with(options).await;
    // The first one is not fenced yet, and hands over.
    let new = SecretKey::generate(bench.world.as_ref());
    first.publisher.hand_over(new.clone()).unwrap();
    first.publish(2).await.unwrap();
    assert_eq!(second.publish(3).await.unwrap_err().kind(), "signature");
    assert!(!bench.objects().await.contains_key(&record(3)), "it would be there for ever");
    // From now on it is known before anything is made and sent.
    bench.store.asked();
    assert_eq!(second.publish(4).await.unwrap_err().kind(), "signature");
    let puts = bench.store.asked();
    assert!(!puts.iter().any(|line| line.starts_with("put ")), "{puts:?}");
    let mut third = bench.publisher_with(PublisherOptions::default().with_key(new.clone())).await;
    third.publish(3).await.unwrap();
    let mut reader = open(&bench, new.public()).await.ok().unwrap();
    assert_eq!(reader.look().await.unwrap(), Some(3));
}

#[tokio::test]
async fn f14_a_forged_record_fences_nobody() {
    let bench = Bench::new();
    let (key, options) = signed(&bench);
    let mut trainer = bench.publisher_with(options).await;
    trainer.publish_all(0..2).await;
    let forger = Bench::new();
    for (name, bytes) in bench.objects().await {
        forger.put(&name, bytes).await;
    }
    let mut other = forger.publisher_with(PublisherOptions::default().with_key(key.clone())).await;
    other.publish(5).await.unwrap();
    let forged = String::from_utf8(forger.objects().await.remove(&record(2)).unwrap()).unwrap();
    bench.put(&record(2), sealed(forged.lines().next().unwrap())).await;
    assert_eq!(trainer.publish(2).await.unwrap_err().kind(), "unsigned");
    bench.delete(&record(2)).await;
    trainer.publish(2).await.unwrap();
    let mut reader = open(&bench, key.public()).await.ok().unwrap();
    // The record that had to wait, and what was given to the second call.
    assert_eq!(reader.look().await.unwrap(), Some(3));
    assert_eq!(reader.held, Some(model(2)));
}
