//! Logits of several runs: one row for each run's sampler, which does not depend on the others.

use omni_core::SamplingOptions;
use proptest::prelude::*;
use qwen3_omni_nn::sampler::Suppressed;
use qwen3_omni_nn::{Engine, Sampler};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

/// The logits after a penalty of ids already chosen.
fn penalised(logits: &[f32], chosen: &[u32], penalty: f32) -> impl Iterator<Item = f64> {
    logits.iter().enumerate().map(move |(id, logit)| match (chosen.contains(&(id as u32)), *logit > 0.0) {
        (false, _) => f64::from(*logit),
        (true, true) => f64::from(*logit / penalty),
        (true, false) => f64::from(*logit * penalty),
    })
}

/// The greatest logit after the penalty; of equal ones the first.
fn greedy(logits: &[f32], chosen: &[u32], penalty: f32) -> u32 {
    let scores: Vec<f64> = penalised(logits, chosen, penalty).collect();
    let best = (0..scores.len()).reduce(|best, id| if scores[id] > scores[best] { id } else { best });
    best.unwrap() as u32
}

fn check<E: Engine>(e: &E, values: &[f32], width: usize, penalties: &[f32]) {
    let split: Vec<Vec<f32>> = e.logits(rows(e, values, width)).iter().map(|logits| logits.to_vec()).collect();
    let each: Vec<&[f32]> = values.chunks_exact(width).collect();
    assert_eq!(split, each, "logits");
    let options = penalties.iter().map(|penalty| SamplingOptions::greedy().repetition_penalty(*penalty));
    let mut samplers: Vec<Sampler> = options.map(|options| Sampler::new(&options, Suppressed::default())).collect();
    let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); each.len()];
    for _ in 0..4 {
        let ids = e.sample(rows(e, values, width), &mut samplers.iter_mut().collect::<Vec<_>>());
        for (run, id) in e.read_ids(&[ids]).into_iter().enumerate() {
            assert_eq!(id, greedy(each[run], &chosen[run], penalties[run]), "run {run} after {:?}", chosen[run]);
            chosen[run].push(id);
        }
    }
    assert!(chosen.iter().all(|ids| ids.len() == 4), "an id for each run");
}

/// What `transformers` leaves of the ids: penalty, temperature, top-k, top-p and min-p, in this order. `None` where rounding decides whether
/// an id is within top-p.
fn shares(logits: &[f32], chosen: &[u32], options: &SamplingOptions) -> Option<Vec<f64>> {
    let SamplingOptions { temperature, top_k, top_p, min_p, repetition_penalty, .. } = options;
    let scores: Vec<f64> =
        penalised(logits, chosen, *repetition_penalty).map(|x| x / f64::from(*temperature)).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(if *top_k == 0 { scores.len() } else { *top_k });
    let weight = |id: usize| (scores[id] - scores[order[0]]).exp();
    let total: f64 = order.iter().map(|id| weight(*id)).sum();
    let (mut shares, mut better) = (vec![0.0; scores.len()], 0.0);
    for id in &order {
        if *top_p < 1.0 && (better - f64::from(*top_p)).abs() < rounding(logits.len()) {
            return None;
        }
        let is_kept = (*top_p >= 1.0 || better < f64::from(*top_p)) && weight(*id) >= f64::from(*min_p);
        shares[*id] = if is_kept { weight(*id) } else { 0.0 };
        better += weight(*id) / total;
    }
    Some(shares)
}

/// How far rounding may move a sum of `count` shares, in f32, and of exponentials that are off by 1e-6.
fn rounding(count: usize) -> f64 {
    count as f64 / f64::from(1 << 23) + 2e-6
}

fn check_draws<E: Engine>(
    e: &E,
    values: &[f32],
    width: usize,
    options: &[SamplingOptions],
) -> Result<(), TestCaseError> {
    let mut samplers: Vec<Sampler> = options.iter().map(|each| Sampler::new(each, Suppressed::default())).collect();
    let mut random: Vec<ChaCha8Rng> = options.iter().map(|each| ChaCha8Rng::seed_from_u64(each.seed)).collect();
    let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); options.len()];
    for _ in 0..6 {
        let ids = e.sample(rows(e, values, width), &mut samplers.iter_mut().collect::<Vec<_>>());
        for (run, id) in e.read_ids(&[ids]).into_iter().enumerate() {
            let shares = shares(&values[run * width..][..width], &chosen[run], &options[run]);
            prop_assume!(shares.is_some(), "rounding decides");
            let (shares, drawn) = (shares.unwrap(), f64::from(random[run].random::<f32>()));
            let (total, below): (f64, f64) = (shares.iter().sum(), shares[..id as usize].iter().sum());
            let (from, to) = (below / total, (below + shares[id as usize]) / total);
            prop_assert!(shares[id as usize] > 0.0, "run {run}: {id} was left out");
            let near = rounding(width);
            prop_assert!(
                (from - near..to + near).contains(&drawn),
                "run {run}: {drawn} is not in {from}..{to} of {id}"
            );
            chosen[run].push(id);
        }
    }
    Ok(())
}

fn sampled() -> impl Strategy<Value = SamplingOptions> {
    let top_p = prop_oneof![Just(1.0f32), 0.2f32..0.99];
    let min_p = prop_oneof![Just(0.0f32), 0.01f32..0.5];
    let penalty = prop::sample::select(vec![1.0f32, 1.3]);
    (0.3f32..2.0, 0..20usize, top_p, min_p, penalty, any::<u64>()).prop_map(
        |(temperature, k, p, least, penalty, seed)| {
            let options = SamplingOptions::default().sampled().temperature(temperature).top_k(k).top_p(p).min_p(least);
            options.repetition_penalty(penalty).seed(seed)
        },
    )
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn logits_of_runs(
        penalties in prop::collection::vec(prop::sample::select(vec![1.0, 1.3, 4.0]), 1..6), width in 2..90usize,
        seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let values = stored.noise(penalties.len() * width);
        on_each_engine!(stored, |e, _weights| check(e, &values, width, &penalties));
    }

    /// Draws are the random source's own numbers on every engine, looked up among the ids that are left.
    #[test]
    fn draws_of_runs(options in prop::collection::vec(sampled(), 1..5), width in 2..90usize, seed: u16) {
        let stored = Stored::new(seed.into());
        let values: Vec<f32> = stored.noise(options.len() * width).into_iter().map(|x| 2.0 * x).collect();
        on_each_engine!(stored, |e, _weights| check_draws(e, &values, width, &options)?);
    }
}
