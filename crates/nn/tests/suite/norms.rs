//! RMSNorm and LayerNorm of rows.

use checkpoint::Weights;
use proptest::prelude::*;
use qwen3_omni_nn::{Engine, LayerNorm, RmsNorm};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::{mean, rms_norm};
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows};

fn layer_norm(x: &[Approx], weight: &[f32], bias: &[f32], eps: f32) -> Vec<Approx> {
    let mean_of_row = mean(x.iter().copied());
    let centred: Vec<Approx> = x.iter().map(|x| *x - mean_of_row).collect();
    let root = (mean(centred.iter().map(|x| *x * *x)) + Approx::from(eps)).sqrt();
    let scaled = centred.iter().zip(weight).map(|(x, weight)| *x / root * Approx::from(*weight));
    scaled.zip(bias).map(|(x, bias)| x + Approx::from(*bias)).collect()
}

fn check<E: Engine>(e: &E, weights: &Weights, x: &[f32], [weight, bias]: [&[f32]; 2], eps: f32) {
    let width = weight.len();
    let of_rows = |f: &dyn Fn(&[Approx]) -> Vec<Approx>| -> Vec<Approx> {
        x.chunks_exact(width).flat_map(|row| f(&exact(row))).collect()
    };
    let norm = RmsNorm::load(weights, width, eps.into()).unwrap();
    let y = e.values(e.rms_norm(&rows(e, x, width), &norm));
    assert_near(&y, &of_rows(&|x| rms_norm(x, weight, eps)), "rms_norm");
    let norm = LayerNorm::load(weights, width, eps.into()).unwrap();
    let y = e.values(e.layer_norm(&rows(e, x, width), &norm));
    assert_near(&y, &of_rows(&|x| layer_norm(x, weight, bias, eps)), "layer_norm");
}

proptest! {
    #![proptest_config(few_cases())]

    /// A large eps is one that no layer may forget or take twice.
    #[test]
    fn norms(
        count in 1..20usize, width in 2..70usize, eps in prop::sample::select(vec![1e-6, 1e-5, 0.5]), seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let x: Vec<f32> = stored.noise(count * width).iter().map(|x| x + 1.0).collect();
        let (weight, bias) = (stored.vector("weight", width), stored.vector("bias", width));
        on_each_engine!(stored, |e, weights| check(e, weights, &x, [&weight, &bias], eps));
    }
}
