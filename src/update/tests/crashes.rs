//! Every file operation of apply, update and recover fails once, or is the last before a crash that loses
//! what was not synced: one crash after another, and crashes of the recovery too. Whatever happens: base,
//! target, or marked; and after a recovery base or target.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::disk::{Fault, Faulty, Loss};
use super::scene::{restore, snapshot, Scene};
use crate::checkpoint::apply::apply_on;
use crate::checkpoint::{ApplyOptions, Checkpoint};
use crate::coding::Coding;
use crate::disk::lock::Access;
use crate::limits::Limits;
use crate::patch::Patch;
use crate::tensors::Control;
use crate::update::{Recovered, Way};

/// Runs `attempt` with a fault at operation 0, 1, 2 … until none comes; gives back how many came.
fn sweep(mut attempt: impl FnMut(u64) -> bool) -> u64 {
    let mut at = 0;
    while attempt(at) {
        at += 1;
    }
    at
}

/// Seeds of what a loss of power leaves.
fn losses(seeds: u64) -> impl Iterator<Item = Loss> {
    std::iter::once(Loss::Everything).chain((0..seeds).map(Loss::Some))
}

#[test]
fn an_update_that_meets_an_error_leaves_the_base_or_the_target() {
    for scene in Scene::all() {
        for fault in [
            Fault::Error(io::ErrorKind::Other),
            Fault::Error(io::ErrorKind::PermissionDenied),
            Fault::ShortWrite,
            Fault::Full,
        ] {
            let faults = sweep(|at| {
                scene.reset();
                let faulty = Faulty::new(at, fault);
                let (fired, done) = scene.update(&faulty);
                let about = format!("{:?} {fault:?} at {at}: {done:?}", scene.way);
                assert!(done.is_err() || scene.holds(&scene.target), "{about}");
                assert!(done.is_ok() || fired, "{about}");
                scene.check_seen().expect(&about);
                let next = faulty.next(u64::MAX, Fault::None);
                let recovered = scene.recover(&next).expect(&about);
                assert!(done.is_err() || recovered == Recovered::Nothing, "{about}");
                assert!(scene.holds(&scene.base) || scene.holds(&scene.target), "{about}");
                // The power goes after all.
                next.lose(Loss::Everything);
                scene.check_recovers().expect(&about);
                fired
            });
            assert!(faults > 25, "{faults} operations");
        }
    }
}

#[test]
fn an_update_that_is_killed_is_recovered_whatever_was_lost() {
    for scene in Scene::all() {
        let mut counts = [0; 4];
        for loss in std::iter::once(None).chain(losses(6).map(Some)) {
            sweep(|at| {
                scene.reset();
                let faulty = Faulty::new(at, Fault::Kill);
                let (fired, done) = scene.update(&faulty);
                assert_eq!(done.is_err(), fired);
                scene.check_seen().unwrap_or_else(|why| panic!("{:?} at {at}: {why}", scene.way));
                if let Some(loss) = loss {
                    faulty.lose(loss);
                }
                let outcome = scene.check_recovers();
                let outcome =
                    outcome.unwrap_or_else(|why| panic!("{:?} {loss:?} at {at}: {why}", scene.way));
                counts[match outcome {
                    Recovered::Nothing => 0,
                    Recovered::Untouched => 1,
                    Recovered::RolledBack { .. } => 2,
                    Recovered::Completed { .. } => 3,
                }] += 1;
                assert_eq!(scene.litter(), [] as [PathBuf; 0], "{loss:?} at {at}");
                // The same command once more gets there.
                scene.update(&Faulty::new(u64::MAX, Fault::None)).1.unwrap();
                assert!(scene.holds(&scene.target), "{loss:?} at {at}");
                fired
            });
        }
        println!("{:?}: nothing, untouched, back, forward: {counts:?}", scene.way);
        assert!(counts.iter().all(|count| *count > 4), "{counts:?}");
    }
}

/// Names that an index decides are those of each side, whatever index is there after the crash.
#[test]
fn an_update_of_tensors_of_the_same_name_is_recovered() {
    for (way, moves) in [(Way::Redo, false), (Way::Undo, false), (Way::Redo, true)] {
        let scene = Scene::of_same_names(way, moves);
        let mut counts = [0; 2];
        for loss in [None, Some(Loss::Everything)] {
            sweep(|at| {
                scene.reset();
                let faulty = Faulty::new(at, Fault::Kill);
                let (fired, _) = scene.update(&faulty);
                if let Some(loss) = loss {
                    faulty.lose(loss);
                }
                match scene.check_recovers() {
                    Ok(Recovered::RolledBack { .. }) => counts[0] += 1,
                    Ok(Recovered::Completed { .. }) => counts[1] += 1,
                    Ok(_) => {}
                    Err(why) => panic!("{way:?} {moves} {loss:?} at {at}: {why}"),
                }
                scene.update(&Faulty::new(u64::MAX, Fault::None)).1.unwrap();
                assert!(scene.holds(&scene.target), "{way:?} {moves} {loss:?} at {at}");
                fired
            });
        }
        assert!(counts.iter().all(|count| *count > 4), "{way:?} {moves}: {counts:?}");
    }
}

/// Killed, recovered for a while and killed again, recovered once more, and then the power goes.
#[test]
fn recoveries_that_are_killed_are_recovered_whatever_was_lost() {
    for scene in Scene::all() {
        let last = sweep(|at| {
            scene.reset();
            scene.update(&Faulty::new(at, Fault::Kill)).0
        });
        let mut runs = 0;
        for at in (0..last).step_by(step(5)) {
            for loss in losses(1) {
                let attempt = |again: u64| {
                    scene.reset();
                    let first = Faulty::new(at, Fault::Kill);
                    scene.update(&first).1.unwrap_err();
                    let second = first.next(again, Fault::Kill);
                    let ended = scene.recover(&second);
                    assert_eq!(ended.is_err(), second.fired());
                    let about = || format!("{:?} {at}, {again}, {loss:?}", scene.way);
                    scene.check_seen().unwrap_or_else(|why| panic!("{}: {why}", about()));
                    // Half of the times a third one ends it before the power goes.
                    let third = second.next(u64::MAX, Fault::None);
                    if again.is_multiple_of(2) {
                        scene.recover(&third).unwrap();
                    }
                    third.lose(loss);
                    scene.check_recovers().unwrap_or_else(|why| panic!("{}: {why}", about()));
                    assert_eq!(scene.litter(), [] as [PathBuf; 0], "{}", about());
                    runs += 1;
                    second.fired()
                };
                sweep(attempt);
            }
        }
        println!("{:?}: {runs} runs", scene.way);
    }
}

/// How many points of a product are left out, one of so many is taken; `PULSE_SWEEP=all` takes all.
fn step(usual: usize) -> usize {
    let all = std::env::var("PULSE_SWEEP").is_ok_and(|sweep| sweep == "all");
    if all {
        1
    } else {
        usual
    }
}

/// A sync fails once, of the update or of the recovery after it; what it should have written is lost if the
/// power goes, and no later sync says so.
#[test]
fn a_sync_that_fails_does_not_lose_the_checkpoint() {
    for scene in Scene::all() {
        let mut failed = 0;
        for loss in losses(2) {
            sweep(|at| {
                scene.reset();
                let faulty = Faulty::new(at, Fault::Sync);
                let (fired, done) = scene.update(&faulty);
                let about = format!("{:?} {loss:?} at {at}: {done:?}", scene.way);
                failed += u64::from(done.is_err());
                scene.check_seen().expect(&about);
                if at.is_multiple_of(2) {
                    let next = faulty.next(u64::MAX, Fault::None);
                    scene.recover(&next).expect(&about);
                    scene.check_seen().expect(&about);
                    next.lose(loss);
                } else {
                    faulty.lose(loss);
                }
                scene.check_recovers().expect(&about);
                fired
            });
        }
        assert!(failed > 10, "{failed}");
        // One of the recovery, for an update that was killed anywhere.
        for at in (0..200).step_by(step(7)) {
            scene.reset();
            if !scene.update(&Faulty::new(at, Fault::Kill)).0 {
                break;
            }
            let killed = snapshot(&scene.room);
            sweep(|again| {
                restore(&scene.room, &killed);
                let first = Faulty::new(0, Fault::None);
                let second = first.next(again, Fault::Sync);
                let _ = scene.recover(&second);
                second.lose(Loss::Everything);
                scene.check_recovers().unwrap_or_else(|why| panic!("{at}, {again}: {why}"));
                second.fired()
            });
        }
    }
}

/// Each sync of the protocol is there for something: without it, a crash is found that shows a mixture, or
/// cannot be recovered. Not so for those that only make "done" mean done.
#[test]
fn without_any_one_of_its_syncs_an_update_is_not_safe() {
    for way in [Way::Redo, Way::Undo] {
        let scene = Scene::new(true, Coding::Contextual, way);
        scene.reset();
        let faulty = Faulty::new(u64::MAX, Fault::None);
        scene.update(&faulty).1.unwrap();
        let syncs = faulty.syncs();
        let is_needed = |left_out: u64| {
            losses(12).any(|loss| {
                let mut wrong = false;
                sweep(|at| {
                    scene.reset();
                    let first = Faulty::without_sync(at, Fault::Kill, left_out);
                    let (fired, _) = scene.update(&first);
                    first.lose(loss);
                    wrong |= scene.check_recovers().is_err();
                    fired && !wrong
                });
                wrong
            })
        };
        let spare: Vec<u64> = (0..syncs).filter(|&left_out| !is_needed(left_out)).collect();
        // A file that does not change; leftovers, where there are none; and the last one: it makes "done"
        // mean that the journal is gone.
        let expected: &[u64] = match way {
            Way::Redo => &[8, 9, 10],
            Way::Undo => &[7, 10, 12],
        };
        assert_eq!(spare, expected, "{way:?}, of {syncs} syncs");
    }
}

#[test]
fn a_new_checkpoint_appears_whole_or_not_at_all_whatever_fails() {
    for directory in [false, true] {
        let scene = Scene::new(directory, Coding::Contextual, Way::Redo);
        let out = scene.room.parent().unwrap().join("out");
        let kills = std::iter::once(None).chain(losses(2).map(Some));
        let kills = kills.map(|loss| (Fault::Kill, loss));
        let errors = [Fault::Error(io::ErrorKind::StorageFull), Fault::ShortWrite, Fault::Full];
        for (fault, loss) in kills.chain(errors.map(|fault| (fault, None))) {
            scene.reset();
            let faults = sweep(|at| {
                let _ = fs::remove_dir_all(&out);
                let _ = fs::remove_file(&out);
                let faulty = Faulty::new(at, fault);
                let disk = faulty.disk();
                let base = Checkpoint::open_on(&scene.checkpoint, &disk, Access::Read);
                let done = base.and_then(|base| {
                    let patch = Patch::open_on(&scene.patch, Limits::default(), &disk)?;
                    let options = ApplyOptions::default();
                    let chain = patch.as_chain().unwrap();
                    apply_on(&disk, Some(&base), &chain, &out, options, Control::threads(1))
                });
                if let Some(loss) = loss {
                    faulty.lose(loss);
                }
                assert!(scene.holds(&scene.base));
                let found = snapshot(&out);
                let whole = found.values().eq(scene.target.values());
                assert!(whole || !out.exists(), "{fault:?} at {at}");
                assert!(whole || done.is_err(), "{fault:?} at {at}");
                faulty.fired()
            });
            assert!(faults > 10, "{faults} operations");
        }
    }
}
