//! Steps of several answers that are ready together are computed together, so that they share one reading of the weights.
//!
//! There is no thread for it: of the answers that wait, the one that came first computes the step of all, hands out the results,
//! and leaves the lead to the next. While it computes, others come and wait; they are the next batch. Nobody overtakes.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use omni_core::{Error, Result};

/// Shortest time to wait for those who have just been served, where there are any.
const PATIENCE: Duration = Duration::from_micros(200);

/// Where steps of one kind meet. A job owns what it needs and comes back as its output.
pub(crate) struct Batch<Job, Output> {
    queue: Mutex<Queue<Job, Output>>,
    changed: Condvar,
    limit: Limit<Job>,
}

/// How much is computed at once.
pub(crate) struct Limit<Job> {
    /// Most jobs of one batch. Of one: everybody computes for himself, at once.
    pub(crate) jobs: usize,
    /// Most that the jobs of one batch weigh together.
    pub(crate) weight: usize,
    /// What a job weighs that joins others. Those that weigh less or more are computed alone, at once: heavy ones would only keep
    /// the others waiting.
    pub(crate) joining: RangeInclusive<usize>,
    pub(crate) weigh: fn(&Job) -> usize,
    /// Longest time to wait for those who have just been served.
    pub(crate) patience: Duration,
}

impl<Job> Limit<Job> {
    /// Jobs that all weigh the same.
    pub(crate) fn jobs(jobs: usize) -> Self {
        Self { jobs, weight: jobs, joining: 0..=jobs, weigh: |_| 1, patience: Duration::MAX }
    }
}

struct Queue<Job, Output> {
    waiting: VecDeque<(usize, Job)>,
    /// By seat; `None` if the batch came to nothing.
    done: HashMap<usize, Option<Output>>,
    /// Whether somebody leads.
    led: bool,
    /// Seats of the last batch that have neither come back nor left.
    due: Vec<usize>,
    /// How long the last batch took.
    took: Duration,
    seats: usize,
    /// Jobs of the largest batch so far.
    largest: usize,
}

/// The place of one answer, which has one job at a time.
pub(crate) struct Seat<'a, Job, Output> {
    batch: &'a Batch<Job, Output>,
    id: usize,
}

impl<Job, Output> Batch<Job, Output> {
    pub(crate) fn new(limit: Limit<Job>) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            done: HashMap::new(),
            led: false,
            due: Vec::new(),
            took: Duration::ZERO,
            seats: 0,
            largest: 0,
        };
        Self { queue: Mutex::new(queue), changed: Condvar::new(), limit }
    }

    /// A place for one who will come again and again.
    pub(crate) fn seat(&self) -> Seat<'_, Job, Output> {
        let mut queue = self.lock();
        queue.seats += 1;
        Seat { batch: self, id: queue.seats }
    }

    /// Jobs of the largest batch so far.
    #[cfg(test)]
    pub(crate) fn largest(&self) -> usize {
        self.lock().largest
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Job, Output>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of those that wait are computed at once.
    fn fitting(&self, queue: &Queue<Job, Output>) -> usize {
        let mut total = 0;
        let weights = queue.waiting.iter().map(|(_, job)| (self.limit.weigh)(job));
        let fitting = weights.take(self.limit.jobs).take_while(|weight| {
            total += weight;
            total <= self.limit.weight
        });
        fitting.count().max(1)
    }

    /// Waits, as the leader, for those of the last batch who are about to come back: without it, answers would take turns in
    /// batches that never join. One who is late costs a quarter of a step, once.
    fn gather<'a>(&self, mut queue: MutexGuard<'a, Queue<Job, Output>>) -> MutexGuard<'a, Queue<Job, Output>> {
        let until = Instant::now() + (queue.took / 4).max(PATIENCE).min(self.limit.patience);
        let room = |queue: &Queue<Job, Output>| {
            queue.waiting.len() < self.limit.jobs && self.fitting(queue) == queue.waiting.len()
        };
        while !queue.due.is_empty() && room(&queue) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue
    }
}

impl<Job, Output> Seat<'_, Job, Output> {
    /// The output of a job. If it falls to this thread to lead, it computes those that wait with it by `compute`, which gives one
    /// output for each job, in their order.
    ///
    /// # Errors
    /// [`Error::Device`] if another one's lead ended in a panic.
    ///
    /// # Panics
    /// If `compute` does.
    pub(crate) fn run(&mut self, job: Job, compute: impl FnOnce(Vec<Job>) -> Vec<Output>) -> Result<Output> {
        let batch = self.batch;
        if batch.limit.jobs == 1 || !batch.limit.joining.contains(&(batch.limit.weigh)(&job)) {
            return Ok(compute(vec![job]).pop().expect("one output for each job"));
        }
        let mut queue = batch.lock();
        queue.due.retain(|seat| *seat != self.id);
        queue.waiting.push_back((self.id, job));
        batch.changed.notify_all();
        loop {
            if let Some(output) = queue.done.remove(&self.id) {
                let reason = "a step that was computed together with another answer's did not end";
                return output.ok_or_else(|| Error::Device(reason.into()));
            }
            let first = queue.waiting.front().is_some_and(|(seat, _)| *seat == self.id);
            if first && !queue.led {
                break;
            }
            queue = batch.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.led = true;
        queue = batch.gather(queue);
        let count = batch.fitting(&queue);
        queue.largest = queue.largest.max(count);
        let (seats, jobs) = queue.waiting.drain(..count).unzip();
        drop(queue);
        let lead = Lead { batch, seats, started: Instant::now(), outputs: Vec::new() };
        Ok(lead.finish(compute(jobs)))
    }
}

impl<Job, Output> Drop for Seat<'_, Job, Output> {
    /// Nobody waits for one who has left.
    fn drop(&mut self) {
        self.batch.lock().due.retain(|seat| *seat != self.id);
        self.batch.changed.notify_all();
    }
}

/// A batch that is being computed. When it is dropped, with outputs or, in a panic, without, the others go on.
struct Lead<'a, Job, Output> {
    batch: &'a Batch<Job, Output>,
    seats: Vec<usize>,
    started: Instant,
    outputs: Vec<Output>,
}

impl<Job, Output> Lead<'_, Job, Output> {
    /// Hands the outputs out; returns the leader's own, which is the first.
    fn finish(mut self, outputs: Vec<Output>) -> Output {
        assert_eq!(outputs.len(), self.seats.len(), "one output for each job");
        self.outputs = outputs;
        self.outputs.remove(0)
    }
}

impl<Job, Output> Drop for Lead<'_, Job, Output> {
    fn drop(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs).into_iter();
        let mut queue = self.batch.lock();
        let others = self.seats.iter().skip(1);
        others.for_each(|seat| drop(queue.done.insert(*seat, outputs.next())));
        queue.took = self.started.elapsed();
        queue.due = std::mem::take(&mut self.seats);
        queue.led = false;
        drop(queue);
        self.batch.changed.notify_all();
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

    /// Waits until so many jobs wait.
    fn until_waiting<J, O>(batch: &Batch<J, O>, count: usize) {
        let until = Instant::now() + LONG;
        while batch.lock().waiting.len() < count {
            assert!(Instant::now() < until, "{} jobs wait, expected {count}", batch.lock().waiting.len());
            sleep(Duration::from_micros(50));
        }
    }

    /// Keeps the lead until it is let go.
    fn hold(go: &AtomicBool) {
        while !go.load(Ordering::SeqCst) {
            sleep(Duration::from_micros(50));
        }
    }

    #[test]
    fn one_alone_is_served_at_once() {
        let batch = Batch::new(Limit::jobs(8));
        let mut seat = batch.seat();
        let started = Instant::now();
        for job in 0..1000 {
            assert_eq!(seat.run(job, |jobs: Vec<i32>| jobs.iter().map(|job| job + 1).collect()).unwrap(), job + 1);
        }
        // Nobody is waited for.
        assert!(started.elapsed() < 1000 * PATIENCE, "{:?}", started.elapsed());
    }

    #[test]
    fn those_who_wait_are_served_together_in_the_order_they_came() {
        assert_eq!(batches_of(Limit::jobs(3), &[1, 2, 3, 4, 5, 6, 7]), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    }

    /// The batches in which jobs of these weights are computed that wait behind one another.
    fn batches_of(limit: Limit<usize>, weights: &[usize]) -> Vec<Vec<usize>> {
        let (batch, go, batches) = (&Batch::new(limit), &AtomicBool::new(false), &Mutex::new(Vec::new()));
        scope(|scope| {
            let leads = move |jobs: Vec<usize>| {
                hold(go);
                jobs
            };
            scope.spawn(move || batch.seat().run(0, leads).unwrap());
            let until = Instant::now() + LONG;
            while !batch.lock().led {
                assert!(Instant::now() < until);
                sleep(Duration::from_micros(50));
            }
            for (at, weight) in weights.iter().enumerate() {
                scope.spawn(move || {
                    let compute = |jobs: Vec<usize>| {
                        batches.lock().unwrap().push(jobs.clone());
                        jobs
                    };
                    assert_eq!(batch.seat().run(*weight, compute).unwrap(), *weight);
                });
                until_waiting(batch, at + 1);
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
        let batch = Batch::new(Limit { weight: 10, joining: 3..=6, weigh: |job| *job, ..Limit::jobs(8) });
        let (batch, go) = (&batch, &AtomicBool::new(false));
        scope(|scope| {
            let leads = move |jobs: Vec<usize>| {
                hold(go);
                jobs
            };
            scope.spawn(move || batch.seat().run(5, leads).unwrap());
            let until = Instant::now() + LONG;
            while !batch.lock().led {
                assert!(Instant::now() < until);
                sleep(Duration::from_micros(50));
            }
            assert_eq!([2, 7].map(|job| batch.seat().run(job, |jobs| jobs).unwrap()), [2, 7]);
            go.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn those_who_come_back_join_one_batch() {
        let (batch, sizes) = (&Batch::new(Limit::jobs(8)), &Mutex::new(Vec::new()));
        scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    let mut seat = batch.seat();
                    for _ in 0..20 {
                        let compute = |jobs: Vec<()>| {
                            sizes.lock().unwrap().push(jobs.len());
                            sleep(Duration::from_millis(20));
                            jobs
                        };
                        seat.run((), compute).unwrap();
                    }
                });
            }
        });
        let sizes = sizes.lock().unwrap();
        assert_eq!(sizes.iter().sum::<usize>(), 80);
        // Twenty if all of them always meet.
        assert!(sizes.len() < 40, "{sizes:?}");
    }

    #[test]
    fn a_panic_reaches_its_leader_and_the_others_hear_of_it() {
        let (batch, go) = (&Batch::<usize, usize>::new(Limit::jobs(8)), &AtomicBool::new(false));
        scope(|scope| {
            let first = scope.spawn(move || {
                let lead = |jobs| {
                    hold(go);
                    jobs
                };
                batch.seat().run(0, lead).unwrap()
            });
            while !batch.lock().led {
                sleep(Duration::from_micros(50));
            }
            let second = scope.spawn(move || {
                let lead = |_| panic!("the device is gone");
                catch_unwind(AssertUnwindSafe(|| batch.seat().run(1, lead))).is_err()
            });
            until_waiting(batch, 1);
            let third = scope.spawn(move || batch.seat().run(2, |_| unreachable!("the second leads")));
            until_waiting(batch, 2);
            go.store(true, Ordering::SeqCst);
            assert_eq!(first.join().unwrap(), 0);
            assert!(second.join().unwrap());
            let error = third.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Device(_)) && error.to_string().contains("another answer"), "{error}");
        });
        // The queue goes on.
        assert_eq!(batch.seat().run(5, |jobs| jobs).unwrap(), 5);
        assert!(batch.lock().done.is_empty());
    }

    #[test]
    fn a_missing_output_is_a_panic_and_nobody_hangs() {
        let batch = Batch::<usize, usize>::new(Limit::jobs(8));
        assert!(catch_unwind(AssertUnwindSafe(|| batch.seat().run(1, |_| Vec::new()))).is_err());
        assert_eq!(batch.seat().run(2, |jobs| jobs).unwrap(), 2);
    }

    #[test]
    fn many_threads_get_their_own_outputs_and_all_get_their_turn() {
        let (batch, inside) = (&Batch::new(Limit::jobs(5)), &AtomicUsize::new(0));
        scope(|scope| {
            for thread in 0..16usize {
                scope.spawn(move || {
                    let mut seat = batch.seat();
                    for step in 0..200 {
                        let compute = |jobs: Vec<(usize, usize)>| {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
                            assert!((1..=5).contains(&jobs.len()));
                            let outputs = jobs.iter().map(|(thread, step)| thread * 1000 + step).collect();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            outputs
                        };
                        assert_eq!(seat.run((thread, step), compute).unwrap(), thread * 1000 + step);
                        // Some leave and come back.
                        if step % 50 == thread {
                            seat = batch.seat();
                        }
                    }
                });
            }
        });
        let queue = batch.lock();
        assert!(queue.waiting.is_empty() && queue.done.is_empty() && queue.due.is_empty() && !queue.led);
    }
}
