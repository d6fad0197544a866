//! FEED.md §7.3: versions as checkpoints on disk.

use std::path::Path;

use pulse::tensors::Control;
use pulse::Checkpoint;
use pulse_sync::{Follower, FollowerOptions, Publisher, PublisherOptions, Result, Versions};

use crate::support::{model, Bench};

/// Writes a checkpoint of one file.
fn write(path: &Path, bytes: &[u8]) -> Checkpoint {
    let json = format!(
        r#"{{"w":{{"dtype":"BF16","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        bytes.len() / 2,
        bytes.len()
    );
    let header = (json.len() as u64).to_le_bytes();
    std::fs::write(path, [&header[..], json.as_bytes(), bytes].concat()).unwrap();
    Checkpoint::open(path).unwrap()
}

/// Publishes the models of these steps from files.
async fn publish(bench: &Bench, dir: &Path, steps: std::ops::Range<u64>) {
    let mut publisher =
        Publisher::start(&bench.feed, PublisherOptions::default().with_threads(1)).await.unwrap();
    let mut base = steps.start.checked_sub(1).map(|step| {
        let checkpoint = write(&dir.join(format!("step-{step}")), &model(step));
        let digest = checkpoint.digest(Control::default()).unwrap();
        (checkpoint, digest)
    });
    for step in steps {
        let target = write(&dir.join(format!("step-{step}")), &model(step));
        let known = base.as_ref().map(|(base, digest)| (base, *digest));
        let published = publisher.publish_checkpoint(known, &target, Some(step)).await.unwrap();
        base = Some((target, published.record.target));
    }
}

/// Looks once, stages, and switches unless told otherwise; says which version that was.
async fn follow(bench: &Bench, versions: &Versions, switches: bool) -> Result<Option<u64>> {
    let control = Control::threads(1);
    let options = FollowerOptions::default().with_spool(versions.directory());
    let mut follower = Follower::open(&bench.feed, versions.mark()?, options).await?;
    let held = versions.held(control)?;
    let digest = held.as_ref().map(|(_, digest)| *digest);
    let Some(update) = follower.look(digest).await? else { return Ok(None) };
    let base = held.as_ref().map(|(path, _)| path.as_path());
    let (path, report) = versions.stage(&update, base, control)?;
    follower.served(&update, report.target)?;
    if switches {
        versions.switch(&path, follower.mark().unwrap())?;
    }
    Ok(Some(update.record.version))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn f33_a_version_is_made_beside_what_is_served_and_switched_to_at_once() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    publish(&bench, dir.path(), 0..2).await;
    let link = dir.path().join("served");
    let versions = Versions::open(&link, 1).unwrap();
    assert_eq!(follow(&bench, &versions, true).await.unwrap(), Some(1));
    let same = |step: u64| {
        let published = std::fs::read(dir.path().join(format!("step-{step}"))).unwrap();
        std::fs::read(&link).unwrap() == published
    };
    assert!(same(1), "byte for byte");
    publish(&bench, dir.path(), 2..5).await;
    // Stopped before the switch: the old version is served, and the next start goes on.
    assert_eq!(follow(&bench, &versions, false).await.unwrap(), Some(4));
    assert!(same(1));
    assert_eq!(Versions::open(&link, 1).unwrap_err().kind(), "misuse", "one process at a time");
    drop(versions);
    let again = Versions::open(&link, 1).unwrap();
    assert_eq!(follow(&bench, &again, true).await.unwrap(), Some(4));
    assert!(same(4));
    assert_eq!(follow(&bench, &again, true).await.unwrap(), None);
    assert_eq!(again.mark().unwrap().unwrap().version, 4);
}

#[tokio::test]
async fn f28_the_mark_is_found_by_a_restart_and_damage_to_it_shows() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    publish(&bench, dir.path(), 0..3).await;
    let versions = Versions::open(dir.path().join("served"), 1).unwrap();
    follow(&bench, &versions, true).await.unwrap();
    // A mirror that is stale: what was served is known after a restart.
    bench.delete(&crate::support::record(2)).await;
    bench.delete("latest.json").await;
    let error = follow(&bench, &versions, true).await.unwrap_err();
    assert_eq!(error.kind(), "rolled-back");
    let mark = versions.directory().join("mark.json");
    let bytes = std::fs::read(&mark).unwrap();
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&mark, &bytes[..cut]).unwrap();
        assert_eq!(versions.mark().unwrap_err().kind(), "malformed");
    }
}

#[tokio::test]
async fn older_versions_stay_for_those_who_have_them_open_as_many_as_are_wanted() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let versions = Versions::open(dir.path().join("served"), 2).unwrap();
    for step in 0..5 {
        publish(&bench, dir.path(), step..step + 1).await;
        follow(&bench, &versions, true).await.unwrap();
    }
    assert_eq!(names(versions.directory()), [".lock", "2", "3", "4", "mark.json"]);
}

#[test]
fn what_is_no_link_of_ours_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("directory")).unwrap();
    std::fs::write(dir.path().join("file"), b"mine").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
    for name in
        ["directory", "file", "link"].into_iter().filter(|name| cfg!(unix) || *name != "link")
    {
        assert_eq!(Versions::open(dir.path().join(name), 1).unwrap_err().kind(), "misuse");
    }
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
}

#[tokio::test]
async fn a_damaged_version_is_made_again() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    publish(&bench, dir.path(), 0..2).await;
    let versions = Versions::open(dir.path().join("served"), 1).unwrap();
    follow(&bench, &versions, true).await.unwrap();
    let path = std::fs::canonicalize(versions.link()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(follow(&bench, &versions, true).await.unwrap(), Some(1));
    assert_eq!(
        std::fs::read(versions.link()).unwrap(),
        std::fs::read(dir.path().join("step-1")).unwrap()
    );
}

#[tokio::test]
async fn a_base_that_is_not_what_it_is_said_to_be_publishes_nothing() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    publish(&bench, dir.path(), 0..1).await;
    let other = write(&dir.path().join("other"), &model(7));
    let target = write(&dir.path().join("target"), &model(1));
    let mut publisher = Publisher::start(&bench.feed, PublisherOptions::default()).await.unwrap();
    let head = publisher.head().unwrap().target;
    let error =
        publisher.publish_checkpoint(Some((&other, head)), &target, None).await.unwrap_err();
    assert_eq!(error.kind(), "base");
    assert_eq!(publisher.head().unwrap().version, 0);
    // Without a base it goes with an anchor.
    let published = publisher.publish_checkpoint(None, &target, None).await.unwrap();
    assert_eq!(published.record.own_anchor().map(|anchor| anchor.version), Some(1));
}

#[tokio::test]
async fn what_is_no_version_is_not_removed_with_the_old_ones() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    publish(&bench, dir.path(), 0..1).await;
    let versions = Versions::open(dir.path().join("served"), 0).unwrap();
    let strangers = ["0.backup", "00", "1.safetensors", "0.again.tar", "notes"];
    for name in strangers {
        std::fs::write(versions.directory().join(name), b"mine").unwrap();
    }
    for steps in [1..2, 2..4] {
        follow(&bench, &versions, true).await.unwrap();
        publish(&bench, dir.path(), steps).await;
    }
    assert_eq!(follow(&bench, &versions, true).await.unwrap(), Some(3));
    let there = names(versions.directory());
    assert!(strangers.iter().all(|name| there.iter().any(|it| it == name)), "{there:?}");
    assert!(!there.iter().any(|name| ["0", "1"].contains(&name.as_str())), "{there:?}");
}
