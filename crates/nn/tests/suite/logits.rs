//! Logits of several runs: one row for each run's sampler, which does not depend on the others.

use omni_core::SamplingOptions;
use proptest::prelude::*;
use qwen3_omni_nn::sampler::Suppressed;
use qwen3_omni_nn::{Engine, Sampler};

use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

/// The greatest logit after a penalty of ids already chosen; of equal ones the first.
fn greedy(logits: &[f32], chosen: &[u32], penalty: f32) -> u32 {
    let score = |id: usize| match (chosen.contains(&(id as u32)), logits[id] > 0.0) {
        (false, _) => logits[id],
        (true, true) => logits[id] / penalty,
        (true, false) => logits[id] * penalty,
    };
    let best = (0..logits.len()).reduce(|best, id| if score(id) > score(best) { id } else { best });
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
}
