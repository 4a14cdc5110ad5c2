//! Sampling: from logits to ids, on the side where the logits lie.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use gpu_kernels::{Chosen, Draw};
pub use gpu_kernels::{NEVER, min_p, soften, top_k, top_p};
use omni_core::{Error, Result, SamplingOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::moe::{host_ids, host_ids_of};
use crate::tensors::joined;
use crate::to_f32_vec;

/// Logits of the next id of one run, where its model computes.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One per step.
pub enum Logits {
    /// `[V]` in host memory.
    Host(Vec<f32>),
    /// `[1, V]` on a device.
    Device(Tensor<2>),
}

impl Logits {
    /// The logits `[V]`, in host memory.
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Logits::Host(scores) => scores.clone(),
            Logits::Device(scores) => to_f32_vec(scores),
        }
    }
}

/// Ids that must never be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Suppressed {
    /// The ids of this range.
    pub ids: Range<u32>,
    /// An id of the range that may be chosen nevertheless.
    pub except: Option<u32>,
}

impl Suppressed {
    fn holds(&self, id: usize) -> bool {
        self.ids.contains(&(id as u32)) && self.except != Some(id as u32)
    }
}

/// Draws ids for one run: options, random source, and the ids already produced.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    random: ChaCha8Rng,
    suppressed: Suppressed,
    /// Ids produced so far, where the repetition penalty needs them.
    seen: BTreeSet<u32>,
    /// How often each id was generated, where the other penalties need it.
    counts: BTreeMap<u32, u32>,
    /// `[1, V]`: the suppressed ids, for logits on a device.
    mask: Option<Tensor<2, Bool>>,
    /// Whether all logits since the last check were finite, or on a device all scores made of them.
    finite: bool,
    /// `[1]`: the same for logits on a device, kept there to save a read.
    finite_on_device: Option<Tensor<1, Int>>,
}

impl Sampler {
    /// Makes a sampler for one run.
    pub fn new(options: &SamplingOptions, suppressed: Suppressed) -> Self {
        let random = ChaCha8Rng::seed_from_u64(options.seed);
        Self {
            options: options.clone(),
            random,
            suppressed,
            seen: BTreeSet::new(),
            counts: BTreeMap::new(),
            mask: None,
            finite: true,
            finite_on_device: None,
        }
    }

    /// Checks that all logits since the last check were finite; an id chosen from NaN or infinite logits is meaningless.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the name of the stage that computed them.
    pub fn check(&mut self, stage: &'static str) -> Result<()> {
        Self::check_all(&mut [self], stage).remove(0)
    }

    /// Checks several samplers as [`Sampler::check`] does, with one read from the device.
    pub fn check_all(samplers: &mut [&mut Self], stage: &'static str) -> Vec<Result<()>> {
        let mut flags = Vec::new();
        let on_device: Vec<bool> = samplers
            .iter_mut()
            .map(|sampler| {
                let flag = sampler.finite_on_device.take();
                let there = flag.is_some();
                flags.extend(flag);
                there
            })
            .collect();
        let mut read = if flags.is_empty() { Vec::new() } else { host_ids(&joined(flags, 0)) }.into_iter();
        let each = samplers.iter_mut().zip(on_device).map(|(sampler, on_device)| {
            let finite = !on_device || read.next() == Some(1);
            match std::mem::replace(&mut sampler.finite, true) && finite {
                true => Ok(()),
                false => Err(Error::NotFinite { stage }),
            }
        });
        each.collect()
    }

    /// Chooses the next id and records it as produced.
    pub fn sample(&mut self, logits: Logits) -> u32 {
        let id = self.choose(logits);
        self.accept(id);
        id
    }

    /// Chooses the next id.
    pub fn choose(&mut self, logits: Logits) -> u32 {
        match logits {
            Logits::Host(mut scores) => self.choose_row(&mut scores),
            Logits::Device(scores) => {
                let id: Tensor<1, Int> = self.choose_tensor(scores).squeeze_dim(1);
                let finite = self.finite_on_device.take();
                // One read for both, because each read waits for the device.
                let read = host_ids_of(std::iter::once(id).chain(finite));
                self.finite &= read.get(1) != Some(&0);
                read[0]
            }
        }
    }

    /// Records an id as produced: the repetition penalty acts on it from now on.
    pub fn accept(&mut self, id: u32) {
        self.accept_prompt(&[id]);
        if self.counts() {
            *self.counts.entry(id).or_default() += 1;
        }
    }

    /// Records the ids of a prompt, which the repetition penalty acts on and the others do not.
    pub fn accept_prompt(&mut self, ids: &[u32]) {
        if self.options.repetition_penalty != 1.0 {
            self.seen.extend(ids);
        }
    }

    fn counts(&self) -> bool {
        self.options.presence_penalty != 0.0 || self.options.frequency_penalty != 0.0
    }

    /// Whether the ids already produced influence the next choice.
    pub(crate) fn remembers(&self) -> bool {
        self.options.repetition_penalty != 1.0 || self.counts()
    }

    /// What presence and frequency penalty and bias add to logits, by id.
    fn offsets(&self) -> impl Iterator<Item = (u32, f32)> {
        let SamplingOptions { presence_penalty, frequency_penalty, ref logit_bias, .. } = self.options;
        let penalty = move |count: u32| -presence_penalty - frequency_penalty * count as f32;
        let penalties = self.counts.iter().map(move |(id, count)| (*id, penalty(*count)));
        penalties.chain(logit_bias.iter().map(|(id, bias)| (*id, *bias)))
    }

    /// Logits after repetition penalty and suppression, from which the greedy choice is made.
    pub fn scores(&self, logits: &Logits) -> Vec<f32> {
        let mut scores = logits.to_vec();
        self.process(&mut scores);
        scores
    }

    fn process(&self, scores: &mut [f32]) {
        let penalty = self.options.repetition_penalty;
        for id in &self.seen {
            let score = &mut scores[*id as usize];
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
        }
        for (id, offset) in self.offsets() {
            if let Some(score) = scores.get_mut(id as usize) {
                *score += offset;
            }
        }
        let length = scores.len() as u32;
        let Suppressed { ids, except } = &self.suppressed;
        for id in ids.start.min(length)..ids.end.min(length) {
            if *except != Some(id) {
                scores[id as usize] = NEVER;
            }
        }
    }

    /// Chooses from one row of logits `[V]` in host memory, which is changed.
    pub(crate) fn choose_row(&mut self, scores: &mut [f32]) -> u32 {
        if !scores.iter().all(|score| score.is_finite()) {
            // The chosen id is meaningless; `check` reports it.
            self.finite = false;
            return 0;
        }
        self.process(scores);
        if self.options.greedy {
            let best = (0..scores.len()).reduce(|best, at| if scores[at] > scores[best] { at } else { best });
            return best.unwrap_or(0) as u32;
        }
        self.draw_row(scores)
    }

    fn draw_row(&mut self, scores: &mut [f32]) -> u32 {
        self.weigh(scores);
        self.draw(scores)
    }

    /// Turns processed logits `[V]` into weights: temperature, top-k, top-p, min-p, and the exponential. The greatest weight is 1.
    fn weigh(&self, scores: &mut [f32]) {
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        for score in scores.iter_mut() {
            *score = if *score <= NEVER { f32::NEG_INFINITY } else { *score / temperature };
        }
        keep_best(scores, top_k, top_p);
        let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if min_p > 0.0 {
            let smallest = greatest + min_p.ln();
            scores.iter_mut().filter(|score| **score < smallest).for_each(|score| *score = f32::NEG_INFINITY);
        }
        scores.iter_mut().for_each(|score| *score = (*score - greatest).exp());
    }

    /// Draws an id in proportion to its weight; the weights are not negative, and one is positive.
    pub fn draw(&mut self, weights: &[f32]) -> u32 {
        let (total, uniform) = (weights.iter().sum::<f32>(), self.uniform());
        let mut cumulative = 0.0;
        let below = weights.iter().take_while(|weight| {
            cumulative += **weight;
            cumulative <= uniform * total
        });
        below.count().min(weights.len() - 1) as u32
    }

    /// Draws a number of `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        self.random.random()
    }

    /// The probability `[V]` of each id to be the next, given the ids accepted so far; a greedy sampler gives its choice all of it.
    pub fn probabilities(&mut self, mut scores: Vec<f32>) -> Vec<f32> {
        if self.options.greedy || !scores.iter().all(|score| score.is_finite()) {
            let choice = self.choose_row(&mut scores);
            scores.fill(0.0);
            scores[choice as usize] = 1.0;
            return scores;
        }
        self.process(&mut scores);
        self.weigh(&mut scores);
        let total: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|weight| *weight /= total);
        scores
    }

    /// Chooses from one row of logits `[1, V]` on a device, where the id stays.
    ///
    /// # Shapes
    /// `[1, V]` → `[1, 1]`.
    pub(crate) fn choose_tensor(&mut self, logits: Tensor<2>) -> Tensor<2, Int> {
        let (device, vocabulary) = (logits.device(), logits.dims()[1]);
        let changed = !self.seen.is_empty() || !self.counts.is_empty() || !self.options.logit_bias.is_empty();
        // A choice widens by itself.
        let mut scores = match changed || !self.suppressed.ids.is_empty() {
            true => logits.cast(DType::F32),
            false => logits,
        };
        if !self.seen.is_empty() {
            let seen = id_mask(vocabulary, &device, |id| self.seen.contains(&(id as u32)));
            scores = repetition_penalty(scores, seen, self.options.repetition_penalty);
        }
        if !self.counts.is_empty() || !self.options.logit_bias.is_empty() {
            let mut offsets = vec![0.0; vocabulary];
            for (id, offset) in self.offsets() {
                if let Some(sum) = offsets.get_mut(id as usize) {
                    *sum += offset;
                }
            }
            scores = scores + Tensor::<2>::from_data(TensorData::new(offsets, [1, vocabulary]), (&device, DType::F32));
        }
        if !self.suppressed.ids.is_empty() {
            let mask = || id_mask(vocabulary, &device, |id| self.suppressed.holds(id));
            let mask = self.mask.get_or_insert_with(mask).clone();
            scores = suppress(scores, mask);
        }
        let before = self.finite_on_device.take();
        let Chosen { id, finite } = match self.options.greedy {
            true => gpu_kernels::greedy(scores, before),
            false => {
                let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
                // The number comes from the host, so a seed gives the same draws on every device.
                gpu_kernels::draw(scores, self.random.random(), &Draw { temperature, top_k, top_p, min_p }, before)
            }
        };
        self.finite_on_device = Some(finite);
        id
    }
}

/// Divides positive and multiplies negative logits of ids already seen.
///
/// # Shapes
/// `[B, V]`, seen `[B, V]` → `[B, V]`.
pub fn repetition_penalty(scores: Tensor<2>, seen: Tensor<2, Bool>, penalty: f32) -> Tensor<2> {
    if penalty == 1.0 {
        return scores;
    }
    let positive = scores.clone().greater_elem(0.0);
    let penalised = (scores.clone() * penalty).mask_where(positive, scores.clone() / penalty);
    scores.mask_where(seen, penalised)
}

/// Makes ids impossible. `suppressed` `[1, V]` or `[B, V]`.
pub fn suppress(scores: Tensor<2>, suppressed: Tensor<2, Bool>) -> Tensor<2> {
    let shape = scores.dims();
    scores.mask_fill(suppressed.expand(shape), NEVER)
}

/// Applies [`top_k`], then [`top_p`], to one row; dropped logits become minus infinity.
fn keep_best(scores: &mut [f32], k: usize, p: f32) {
    let mut sorted = scores.to_vec();
    if k > 0 && k < sorted.len() {
        sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let smallest = sorted[k - 1];
        // Equal logits at the boundary are all kept.
        sorted = scores.iter().copied().filter(|score| *score >= smallest).collect();
    }
    if p < 1.0 {
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let greatest = sorted[0];
        let total: f32 = sorted.iter().map(|score| (score - greatest).exp()).sum();
        let mut before = 0.0;
        let kept = sorted.iter().take_while(|score| {
            let keeps = before < p;
            before += (**score - greatest).exp() / total;
            keeps
        });
        let kept = kept.count().max(1);
        sorted.truncate(kept);
    }
    let smallest = sorted.into_iter().fold(f32::INFINITY, f32::min);
    scores.iter_mut().filter(|score| **score < smallest).for_each(|score| *score = f32::NEG_INFINITY);
}

/// `[1, V]` with `true` where `hidden` says so.
pub fn id_mask(vocabulary: usize, device: &Device, hidden: impl Fn(usize) -> bool) -> Tensor<2, Bool> {
    let values: Vec<bool> = (0..vocabulary).map(hidden).collect();
    Tensor::from_data(TensorData::new(values, [1, vocabulary]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f32]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &Device::flex())
    }

    fn draws(options: SamplingOptions, values: &[f32], n: usize) -> Vec<i64> {
        let mut sampler = Sampler::new(&options, Suppressed::default());
        (0..n).map(|_| i64::from(sampler.sample(Logits::Device(scores(values))))).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_seed_differs() {
        let options = |seed| SamplingOptions::talker().repetition_penalty(1.0).seed(seed);
        let values: Vec<f32> = (0..32).map(|i| (i % 7) as f32 * 0.3).collect();
        assert_eq!(draws(options(1), &values, 40), draws(options(1), &values, 40));
        assert_ne!(draws(options(1), &values, 40), draws(options(2), &values, 40));
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let options = SamplingOptions::talker().temperature(1.0).top_k(0).repetition_penalty(1.0);
        let values = [0.5f32, 0.3, 0.2].map(f32::ln);
        let drawn = draws(options, &values, 4000);
        for (id, expected) in [0.5, 0.3, 0.2].into_iter().enumerate() {
            let share = drawn.iter().filter(|d| **d == id as i64).count() as f64 / 4000.0;
            assert!((share - expected).abs() < 0.03, "id {id}: {share} instead of {expected}");
        }
    }

    #[test]
    fn limits_exclude_ids() {
        let base = SamplingOptions::talker().temperature(1.0).repetition_penalty(1.0);
        let values = [2.0, 1.0, 1.5, 0.0];
        let k = base.clone().top_k(2);
        assert!(draws(k, &values, 200).iter().all(|id| [0, 2].contains(id)));
        let p = base.top_k(0).top_p(0.1);
        assert!(draws(p, &values, 200).iter().all(|id| *id == 0));
    }

    #[test]
    fn min_p_penalties_and_bias_do_what_their_formulas_say() {
        // Probabilities 8/15, 4/15, 2/15, 1/15: only the first two are at least 0.4 times as probable as the best.
        let values = [8.0f32, 4.0, 2.0, 1.0].map(f32::ln);
        let options = SamplingOptions::default().sampled().min_p(0.4);
        let drawn = draws(options, &values, 300);
        assert!(drawn.iter().all(|id| *id < 2) && drawn.contains(&0) && drawn.contains(&1));
        let options =
            SamplingOptions::greedy().presence_penalty(0.5).frequency_penalty(0.25).logit_bias([(2, 1.0), (9, 5.0)]);
        let mut sampler = Sampler::new(&options, Suppressed::default());
        sampler.accept_prompt(&[0]);
        [1, 1, 3].into_iter().for_each(|id| sampler.accept(id));
        // Twice generated: 0.5 + 2 * 0.25; once: 0.5 + 0.25; the prompt's do not count.
        assert_eq!(sampler.scores(&Logits::Host(vec![1.0; 4])), [1.0, 0.0, 2.0, 0.25]);
    }

    #[test]
    fn suppressed_ids_never_win_and_the_penalty_acts_in_greedy_mode() {
        let options = SamplingOptions::greedy().repetition_penalty(2.0);
        let suppressed = Suppressed { ids: 0..2, except: Some(1) };
        let values = [9.0, 1.0, 1.5, 0.0];
        let mut on_device = Sampler::new(&options, suppressed.clone());
        let ids = [0, 1].map(|_| on_device.sample(Logits::Device(scores(&values))));
        let mut on_host = Sampler::new(&options, suppressed);
        assert_eq!(on_host.scores(&Logits::Host(values.to_vec())), [NEVER, 1.0, 1.5, 0.0]);
        assert_eq!((ids, [0, 1].map(|_| on_host.sample(Logits::Host(values.to_vec())))), ([2, 1], [2, 1]));
    }

    #[test]
    fn logits_that_are_not_finite_are_noticed_whatever_is_chosen_from_them() {
        for options in [SamplingOptions::greedy(), SamplingOptions::talker()] {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let [right, wrong] = [[1.0, 2.0, 3.0], [1.0, wrong, 3.0]];
                let logits: [&dyn Fn([f32; 3]) -> Logits; 2] =
                    [&|row| Logits::Host(row.to_vec()), &|row| Logits::Device(scores(&row))];
                for logits in logits {
                    let mut sampler = Sampler::new(&options, Suppressed { ids: 0..1, except: None });
                    sampler.sample(logits(right));
                    sampler.check("thinker").unwrap();
                    for row in [right, wrong, right] {
                        sampler.sample(logits(row));
                    }
                    let message = sampler.check("thinker").unwrap_err().to_string();
                    assert!(message.contains("thinker"), "{message}");
                    sampler.sample(logits(right));
                    sampler.check("thinker").unwrap();
                }
            }
        }
    }

    #[test]
    fn a_row_in_memory_is_drawn_like_a_tensor() {
        let values: Vec<f32> = (0..200).map(|i| ((i * 37) % 101) as f32 * 0.07 - 2.0).collect();
        for (top_k, top_p, repetition_penalty) in
            [(0, 1.0, 1.0), (50, 0.8, 1.0), (50, 1.0, 1.05), (0, 0.3, 1.0), (1, 1.0, 1.0), (50, 1.0, 1.5)]
        {
            let options = SamplingOptions::talker().top_k(top_k).top_p(top_p).repetition_penalty(repetition_penalty);
            let suppressed = Suppressed { ids: 90..120, except: Some(95) };
            let mut samplers = [0, 1].map(|_| Sampler::new(&options, suppressed.clone()));
            for _ in 0..100 {
                let row = samplers[0].sample(Logits::Host(values.clone()));
                let tensor = samplers[1].sample(Logits::Device(scores(&values)));
                assert_eq!(row, tensor, "top_k {top_k}, top_p {top_p}, penalty {repetition_penalty}");
                assert!(!(90..120).contains(&row) || row == 95);
            }
        }
        let penalties = SamplingOptions::talker()
            .top_k(0)
            .min_p(0.3)
            .presence_penalty(0.4)
            .frequency_penalty(-0.2)
            .logit_bias([(7, 3.0), (31, -2.0)]);
        let mut samplers = [0, 1].map(|_| Sampler::new(&penalties, Suppressed::default()));
        samplers.iter_mut().for_each(|sampler| sampler.accept_prompt(&[3, 50]));
        for _ in 0..100 {
            let row = samplers[0].sample(Logits::Host(values.clone()));
            assert_eq!(row, samplers[1].sample(Logits::Device(scores(&values))));
        }
        let greedy = SamplingOptions::greedy().repetition_penalty(1.0);
        assert_eq!(Sampler::new(&greedy, Suppressed::default()).choose_row(&mut [1.0, 3.0, 3.0]), 1);
    }
}
