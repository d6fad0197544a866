//! Work on many threads, results in order, a bounded number in flight.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// What the threads share: tasks not begun, and results not consumed.
struct Shared<I, R> {
    tasks: I,
    /// Results of the tasks begun but not consumed, oldest first.
    window: VecDeque<Option<Result<R>>>,
    /// Number of the task at the front of the window.
    first: u64,
    exhausted: bool,
    stop: bool,
}

struct Queue<I, R> {
    shared: Mutex<Shared<I, R>>,
    /// A result came, or all ended.
    ready: Condvar,
    /// There is room in the window.
    room: Condvar,
}

impl<I, R> Queue<I, R> {
    /// A panic elsewhere ends the work anyway; it must not hang it.
    fn lock(&self) -> MutexGuard<'_, Shared<I, R>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.ready.notify_all();
        self.room.notify_all();
    }
}

/// Stops the other threads when this one unwinds.
struct StopOnDrop<'a, I, R>(&'a Queue<I, R>);

impl<I, R> Drop for StopOnDrop<'_, I, R> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// Runs `work` on every task, and `consume` on the results in the order of the tasks.
/// Stops at the first error in that order. `scratch` makes what each thread keeps.
pub(crate) fn ordered<S, T, R, I>(
    threads: usize,
    scratch: impl Fn() -> S + Sync,
    mut tasks: I,
    work: impl Fn(&mut S, T) -> Result<R> + Sync,
    mut consume: impl FnMut(R) -> Result<()>,
) -> Result<()>
where
    T: Send,
    R: Send,
    I: Iterator<Item = T> + Send,
{
    if threads <= 1 {
        let mut own = scratch();
        return tasks.try_for_each(|task| consume(work(&mut own, task)?));
    }
    // Enough in flight that a slow task does not leave the other threads idle.
    let window = 2 * threads + 2;
    let queue = Queue {
        shared: Mutex::new(Shared {
            tasks,
            window: VecDeque::new(),
            first: 0,
            exhausted: false,
            stop: false,
        }),
        ready: Condvar::new(),
        room: Condvar::new(),
    };
    let worker = || {
        let _guard = StopOnDrop(&queue);
        let mut own = scratch();
        let mut shared = queue.lock();
        loop {
            while !shared.stop && !shared.exhausted && shared.window.len() >= window {
                shared = queue.room.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            if shared.stop || shared.exhausted {
                return;
            }
            let Some(task) = shared.tasks.next() else {
                shared.exhausted = true;
                queue.room.notify_all();
                queue.ready.notify_all();
                return;
            };
            let number = shared.first + shared.window.len() as u64;
            shared.window.push_back(None);
            drop(shared);
            let result = work(&mut own, task);
            shared = queue.lock();
            // The front only moves past results that are there, so the slot still exists.
            let slot = usize::try_from(number - shared.first)
                .ok()
                .and_then(|at| shared.window.get_mut(at));
            if let Some(slot) = slot {
                *slot = Some(result);
            }
            queue.ready.notify_all();
        }
    };
    thread::scope(|scope| {
        let start = || thread::Builder::new().spawn_scoped(scope, worker).map(drop);
        start_some(threads, start)?;
        let _guard = StopOnDrop(&queue);
        let mut shared = queue.lock();
        loop {
            let ended =
                |shared: &Shared<I, R>| shared.stop || shared.exhausted && shared.window.is_empty();
            while !ended(&shared) && !matches!(shared.window.front(), Some(Some(_))) {
                shared = queue.ready.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            if shared.stop {
                return Err(Error::Internal("a worker thread panicked".into()));
            }
            let Some(Some(result)) = shared.window.pop_front() else { return Ok(()) };
            shared.first += 1;
            drop(shared);
            queue.room.notify_one();
            if let Err(error) = result.and_then(&mut consume) {
                queue.stop();
                return Err(error);
            }
            shared = queue.lock();
        }
    })
}

/// Starts threads, as many as the system allows: results do not depend on their number. With none,
/// it is an error.
fn start_some(threads: usize, mut start: impl FnMut() -> io::Result<()>) -> Result<()> {
    for started in 0..threads {
        match start() {
            Ok(()) => {}
            Err(error) if started == 0 => return Err(Error::io("starting a thread", error)),
            Err(_) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_allows_few_threads_gets_few() {
        for (allowed, threads) in [(3, 1_000_000_000), (3, 3), (1, 2), (5, 2)] {
            let mut started = 0;
            let result = start_some(threads, || {
                if started == allowed {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                started += 1;
                Ok(())
            });
            result.unwrap();
            assert_eq!(started, threads.min(allowed));
        }
        let none = start_some(4, || Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(none.unwrap_err().kind(), "io");
    }

    #[test]
    fn results_come_in_order_whatever_the_threads() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let work = |_: &mut (), task: u64| {
                thread::sleep(std::time::Duration::from_micros(task * 7919 % 50));
                Ok(task * task)
            };
            ordered(
                threads,
                || (),
                0..200,
                work,
                |result| {
                    seen.push(result);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..200).map(|task| task * task).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn the_first_error_in_order_ends_the_work() {
        for threads in [1, 3] {
            let mut last = None;
            let work = |_: &mut (), task: u64| {
                if task >= 50 {
                    Err(Error::misuse(format!("task {task}")))
                } else {
                    Ok(task)
                }
            };
            let error = ordered(
                threads,
                || (),
                0..,
                work,
                |result| {
                    last = Some(result);
                    Ok(())
                },
            );
            assert_eq!(error.unwrap_err().to_string(), "task 50");
            assert_eq!(last, Some(49));
        }
    }

    #[test]
    fn no_more_is_in_flight_than_the_window_allows() {
        use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
        let (flying, most) = (AtomicI64::new(0), AtomicI64::new(0));
        let work = |_: &mut (), _| {
            most.fetch_max(flying.fetch_add(1, SeqCst) + 1, SeqCst);
            Ok(())
        };
        ordered(
            4,
            || (),
            0..1000,
            work,
            |()| {
                flying.fetch_sub(1, SeqCst);
                Ok(())
            },
        )
        .unwrap();
        assert!(most.into_inner() <= 10 + 1);
    }

    #[test]
    #[should_panic]
    fn a_panic_in_a_worker_does_not_hang() {
        let work = |_: &mut (), task: u32| if task == 5 { panic!("worker") } else { Ok(()) };
        let _ = ordered(2, || (), 0..100, work, |()| Ok(()));
    }
}
