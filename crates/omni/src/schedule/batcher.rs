//! Continuous batching: steps of several answers that wait at the same time are computed as one batch, with one reading of the
//! weights.
//!
//! The batcher has no thread. The slot that has waited longest becomes the leader: it computes the batch, hands out the outputs, and
//! the next in line leads the next batch. Jobs that arrive while a batch is computed wait for the next one. The queue is first in,
//! first out.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use omni_core::{Error, Result};

/// Least time that a leader waits for the slots of the last batch to return.
const MIN_WAIT: Duration = Duration::from_micros(200);

/// Batches jobs of one kind. A job owns what it needs and becomes its output.
pub(crate) struct Batcher<Job, Output> {
    queue: Mutex<Queue<Job, Output>>,
    changed: Condvar,
    limit: Limit<Job>,
}

/// Limits of a batch.
pub(crate) struct Limit<Job> {
    /// Most jobs of one batch. With 1 every job is computed alone and at once.
    pub(crate) jobs: usize,
    /// Most total weight of the jobs of one batch.
    pub(crate) weight: usize,
    /// Weights of jobs that are batched. Lighter and heavier jobs are computed alone and at once: a heavy one would only make the
    /// others wait.
    pub(crate) joining: RangeInclusive<usize>,
    pub(crate) weigh: fn(&Job) -> usize,
    /// Most time that a leader waits for the slots of the last batch to return.
    pub(crate) max_wait: Duration,
}

impl<Job> Limit<Job> {
    /// Limits for jobs that all weigh the same.
    pub(crate) fn jobs(jobs: usize) -> Self {
        Self { jobs, weight: jobs, joining: 0..=jobs, weigh: |_| 1, max_wait: Duration::MAX }
    }
}

struct Queue<Job, Output> {
    waiting: VecDeque<(usize, Job)>,
    /// Outputs by slot; `None` if the batch panicked.
    done: HashMap<usize, Option<Output>>,
    /// Whether a batch is being gathered or computed.
    has_leader: bool,
    /// Slots of the last batch that have neither returned nor been dropped.
    expected: Vec<usize>,
    /// Time that the last batch took.
    took: Duration,
    slots: usize,
    /// Jobs of the largest batch so far.
    largest: usize,
}

/// The slot of one answer, which has one job at a time.
pub(crate) struct Slot<'a, Job, Output> {
    batcher: &'a Batcher<Job, Output>,
    id: usize,
}

impl<Job, Output> Batcher<Job, Output> {
    pub(crate) fn new(limit: Limit<Job>) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            done: HashMap::new(),
            has_leader: false,
            expected: Vec::new(),
            took: Duration::ZERO,
            slots: 0,
            largest: 0,
        };
        Self { queue: Mutex::new(queue), changed: Condvar::new(), limit }
    }

    /// Opens a slot for an answer that will submit job after job.
    pub(crate) fn slot(&self) -> Slot<'_, Job, Output> {
        let mut queue = self.lock();
        queue.slots += 1;
        Slot { batcher: self, id: queue.slots }
    }

    /// Jobs of the largest batch so far.
    #[cfg(test)]
    pub(crate) fn largest(&self) -> usize {
        self.lock().largest
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Job, Output>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the waiting jobs, from the first on, that fit into one batch.
    fn fitting(&self, queue: &Queue<Job, Output>) -> usize {
        let mut total = 0;
        let weights = queue.waiting.iter().map(|(_, job)| (self.limit.weigh)(job));
        let fitting = weights.take(self.limit.jobs).take_while(|weight| {
            total += weight;
            total <= self.limit.weight
        });
        fitting.count().max(1)
    }

    /// Waits, as the leader, for the slots of the last batch to return. Without it, two groups of answers would alternate in
    /// batches that never join. A slot that is late costs a quarter of a step, once.
    fn gather<'a>(&self, mut queue: MutexGuard<'a, Queue<Job, Output>>) -> MutexGuard<'a, Queue<Job, Output>> {
        let until = Instant::now() + (queue.took / 4).max(MIN_WAIT).min(self.limit.max_wait);
        let room = |queue: &Queue<Job, Output>| {
            queue.waiting.len() < self.limit.jobs && self.fitting(queue) == queue.waiting.len()
        };
        while !queue.expected.is_empty() && room(&queue) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue
    }
}

impl<Job, Output> Slot<'_, Job, Output> {
    /// Submits a job and waits for its output. As the leader, the calling thread computes the batch with `compute`, which gives
    /// one output per job, in order.
    ///
    /// # Errors
    /// [`Error::Device`] if the leader of the batch panicked.
    ///
    /// # Panics
    /// If `compute` does.
    pub(crate) fn run(&mut self, job: Job, compute: impl FnOnce(Vec<Job>) -> Vec<Output>) -> Result<Output> {
        let batcher = self.batcher;
        if batcher.limit.jobs == 1 || !batcher.limit.joining.contains(&(batcher.limit.weigh)(&job)) {
            return Ok(compute(vec![job]).pop().expect("one output for each job"));
        }
        let mut queue = batcher.lock();
        queue.expected.retain(|slot| *slot != self.id);
        queue.waiting.push_back((self.id, job));
        batcher.changed.notify_all();
        loop {
            if let Some(output) = queue.done.remove(&self.id) {
                let reason = "the leader of this step's batch, another answer, failed";
                return output.ok_or_else(|| Error::Device(reason.into()));
            }
            let first = queue.waiting.front().is_some_and(|(slot, _)| *slot == self.id);
            if first && !queue.has_leader {
                break;
            }
            queue = batcher.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.has_leader = true;
        queue = batcher.gather(queue);
        let count = batcher.fitting(&queue);
        queue.largest = queue.largest.max(count);
        let (slots, jobs) = queue.waiting.drain(..count).unzip();
        drop(queue);
        let lead = Leader { batcher, slots, started: Instant::now(), outputs: Vec::new() };
        Ok(lead.finish(compute(jobs)))
    }
}

impl<Job, Output> Drop for Slot<'_, Job, Output> {
    /// Makes leaders wait for this slot no longer.
    fn drop(&mut self) {
        self.batcher.lock().expected.retain(|slot| *slot != self.id);
        self.batcher.changed.notify_all();
    }
}

/// The leader of a batch that is being computed. Dropping it releases the other slots, with outputs or, in a panic, without.
struct Leader<'a, Job, Output> {
    batcher: &'a Batcher<Job, Output>,
    slots: Vec<usize>,
    started: Instant,
    outputs: Vec<Output>,
}

impl<Job, Output> Leader<'_, Job, Output> {
    /// Hands out the outputs and returns the leader's own, the first.
    fn finish(mut self, outputs: Vec<Output>) -> Output {
        assert_eq!(outputs.len(), self.slots.len(), "one output for each job");
        self.outputs = outputs;
        self.outputs.remove(0)
    }
}

impl<Job, Output> Drop for Leader<'_, Job, Output> {
    fn drop(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs).into_iter();
        let mut queue = self.batcher.lock();
        let others = self.slots.iter().skip(1);
        others.for_each(|slot| drop(queue.done.insert(*slot, outputs.next())));
        queue.took = self.started.elapsed();
        queue.expected = std::mem::take(&mut self.slots);
        queue.has_leader = false;
        drop(queue);
        self.batcher.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread::{scope, sleep};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Waits, but not for ever: a scope that a failed assertion leaves waits for its threads.
    fn until(what: &str, reached: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !reached() {
            assert!(Instant::now() < end, "{what} within {LONG:?}");
            sleep(Duration::from_micros(50));
        }
    }

    fn until_led<J, O>(batcher: &Batcher<J, O>) {
        until("a job leads", || batcher.lock().has_leader);
    }

    fn until_waiting<J, O>(batcher: &Batcher<J, O>, count: usize) {
        until(&format!("{count} jobs wait"), || batcher.lock().waiting.len() >= count);
    }

    /// Holds a batch until `go` is set.
    fn hold(go: &AtomicBool) {
        until("the batch is let go", || go.load(Ordering::SeqCst));
    }

    #[test]
    fn one_alone_is_served_at_once() {
        let batcher = Batcher::new(Limit::jobs(8));
        let mut slot = batcher.slot();
        // The leader waits for no other slot: a thousand waits would take longer. A busy machine may hold up a single try.
        let at_once = (0..10).any(|_| {
            let started = Instant::now();
            for job in 0..1000 {
                assert_eq!(slot.run(job, |jobs: Vec<i32>| jobs.iter().map(|job| job + 1).collect()).unwrap(), job + 1);
            }
            started.elapsed() < 1000 * MIN_WAIT
        });
        assert!(at_once);
    }

    #[test]
    fn those_who_wait_are_served_together_in_the_order_they_came() {
        assert_eq!(batches_of(Limit::jobs(3), &[1, 2, 3, 4, 5, 6, 7]), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    }

    /// The batches in which jobs of these weights are computed when they wait in this order.
    fn batches_of(limit: Limit<usize>, weights: &[usize]) -> Vec<Vec<usize>> {
        let (batcher, go, batches) = (&Batcher::new(limit), &AtomicBool::new(false), &Mutex::new(Vec::new()));
        scope(|scope| {
            let leads = move |jobs: Vec<usize>| {
                hold(go);
                jobs
            };
            scope.spawn(move || batcher.slot().run(0, leads).unwrap());
            until_led(batcher);
            for (at, weight) in weights.iter().enumerate() {
                scope.spawn(move || {
                    let compute = |jobs: Vec<usize>| {
                        batches.lock().unwrap().push(jobs.clone());
                        jobs
                    };
                    assert_eq!(batcher.slot().run(*weight, compute).unwrap(), *weight);
                });
                until_waiting(batcher, at + 1);
            }
            go.store(true, Ordering::SeqCst);
        });
        batches.lock().unwrap().clone()
    }

    #[test]
    fn batches_weigh_no_more_than_they_may() {
        let limit = Limit { weight: 10, joining: 0..=10, weigh: |job| *job, ..Limit::jobs(3) };
        let batches = batches_of(limit, &[4, 6, 1, 10, 5, 5, 2, 2, 2, 2]);
        assert_eq!(batches, [vec![4, 6], vec![1], vec![10], vec![5, 5], vec![2, 2, 2], vec![2]]);
    }

    #[test]
    fn a_light_job_and_a_heavy_one_wait_for_nobody() {
        let batcher = Batcher::new(Limit { weight: 10, joining: 3..=6, weigh: |job| *job, ..Limit::jobs(8) });
        let (batcher, go) = (&batcher, &AtomicBool::new(false));
        scope(|scope| {
            let leads = move |jobs: Vec<usize>| {
                hold(go);
                jobs
            };
            scope.spawn(move || batcher.slot().run(5, leads).unwrap());
            until_led(batcher);
            assert_eq!([2, 7].map(|job| batcher.slot().run(job, |jobs| jobs).unwrap()), [2, 7]);
            go.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn those_who_come_back_join_one_batch() {
        let (batcher, sizes) = (&Batcher::new(Limit::jobs(8)), &Mutex::new(Vec::new()));
        scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    let mut slot = batcher.slot();
                    for _ in 0..20 {
                        let compute = |jobs: Vec<()>| {
                            sizes.lock().unwrap().push(jobs.len());
                            sleep(Duration::from_millis(20));
                            jobs
                        };
                        slot.run((), compute).unwrap();
                    }
                });
            }
        });
        let sizes = sizes.lock().unwrap();
        assert_eq!(sizes.iter().sum::<usize>(), 80);
        // Twenty if all of them join every batch.
        assert!(sizes.len() < 40, "{sizes:?}");
    }

    #[test]
    fn a_panic_reaches_its_leader_and_the_others_hear_of_it() {
        let (batcher, go) = (&Batcher::<usize, usize>::new(Limit::jobs(8)), &AtomicBool::new(false));
        scope(|scope| {
            let first = scope.spawn(move || {
                let lead = |jobs| {
                    hold(go);
                    jobs
                };
                batcher.slot().run(0, lead).unwrap()
            });
            until_led(batcher);
            let second = scope.spawn(move || {
                let lead = |_| panic!("the device is gone");
                catch_unwind(AssertUnwindSafe(|| batcher.slot().run(1, lead))).is_err()
            });
            until_waiting(batcher, 1);
            let third = scope.spawn(move || batcher.slot().run(2, |_| unreachable!("the second leads")));
            until_waiting(batcher, 2);
            go.store(true, Ordering::SeqCst);
            assert_eq!(first.join().unwrap(), 0);
            assert!(second.join().unwrap());
            let error = third.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Device(_)) && error.to_string().contains("another answer"), "{error}");
        });
        // The batcher still works.
        assert_eq!(batcher.slot().run(5, |jobs| jobs).unwrap(), 5);
        assert!(batcher.lock().done.is_empty());
    }

    #[test]
    fn a_missing_output_is_a_panic_and_nobody_hangs() {
        let batcher = Batcher::<usize, usize>::new(Limit::jobs(8));
        assert!(catch_unwind(AssertUnwindSafe(|| batcher.slot().run(1, |_| Vec::new()))).is_err());
        assert_eq!(batcher.slot().run(2, |jobs| jobs).unwrap(), 2);
    }

    #[test]
    fn many_threads_get_their_own_outputs_and_all_get_their_turn() {
        let (batcher, inside) = (&Batcher::new(Limit::jobs(5)), &AtomicUsize::new(0));
        scope(|scope| {
            for thread in 0..16usize {
                scope.spawn(move || {
                    let mut slot = batcher.slot();
                    for step in 0..200 {
                        let compute = |jobs: Vec<(usize, usize)>| {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
                            assert!((1..=5).contains(&jobs.len()));
                            let outputs = jobs.iter().map(|(thread, step)| thread * 1000 + step).collect();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            outputs
                        };
                        assert_eq!(slot.run((thread, step), compute).unwrap(), thread * 1000 + step);
                        // Some slots are dropped and opened again.
                        if step % 50 == thread {
                            slot = batcher.slot();
                        }
                    }
                });
            }
        });
        let queue = batcher.lock();
        assert!(queue.waiting.is_empty() && queue.done.is_empty() && queue.expected.is_empty() && !queue.has_leader);
    }
}
