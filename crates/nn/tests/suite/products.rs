//! Linear layers, alone and several at once, with what follows them in the same call.

use checkpoint::Weights;
use proptest::prelude::*;
use qwen3_omni_nn::{Activation, Engine, Linear, SKINNY_MAX_ROWS, Vector};

use crate::approx::{Approx, assert_near, exact};
use crate::formula::{Operands, silu, terms};
use crate::on_each_engine;
use crate::stored::{Stored, few_cases, rows, schemes};

/// One linear layer as it is stored.
struct Layer {
    name: &'static str,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    shape: [usize; 2],
    packed: bool,
}

impl Layer {
    fn draw(stored: &Stored, name: &'static str, shape: [usize; 2], bias: bool) -> Self {
        let bias = bias.then(|| stored.vector(&format!("{name}.bias"), shape[0]));
        Self { name, weight: stored.linear(name, shape), bias, shape, packed: stored.is_packed() }
    }

    fn load(&self, weights: &Weights) -> Linear {
        Linear::load(&weights.at(self.name), self.shape, self.bias.is_some()).unwrap()
    }

    /// `x Wᵀ + b` of rows, each number as one sum: an engine may begin it with the bias, or with what the product is added to.
    fn apply(&self, x: &[f32], added: Option<&[f32]>, weights: &Weights) -> Vec<Approx> {
        let [output, input] = self.shape;
        let operands = Operands::of(weights, self.packed, x.len() / input);
        let number = |row: usize, at: usize| {
            let bias = self.bias.as_ref().map(|bias| bias[at]);
            let others = [bias, added.map(|added| added[row * output + at])];
            let x = exact(&x[row * input..][..input]);
            let terms = terms(&x, &self.weight[at * input..][..input], operands);
            Approx::sum(terms.chain(others.into_iter().flatten().map(Approx::from)))
        };
        (0..x.len() / input).flat_map(|row| (0..output).map(move |at| number(row, at))).collect()
    }
}

/// `2 / √π ∫ exp(-t²)` from 0 to `x`, by a series whose terms have one sign.
fn erf(x: f64) -> f64 {
    let terms = (1..200).scan(x, |term, n| {
        let this = *term;
        *term *= 2.0 * x * x / f64::from(2 * n + 1);
        Some(this)
    });
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * terms.sum::<f64>()
}

fn activated(x: Approx, act: Activation) -> Approx {
    let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    match act {
        Activation::None => x,
        Activation::Gelu => x.activated(|x| x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) / 2.0, 1.2),
        Activation::GeluTanh => x.activated(|x| x * (1.0 + inner(x).tanh()) / 2.0, 1.2),
        Activation::Silu => silu(x),
    }
}

fn check_linear<E: Engine>(e: &E, weights: &Weights, x: &[f32], layers: [&Layer; 3]) {
    let mut input = rows(e, x, layers[0].shape[1]);
    let loaded = layers.map(|layer| layer.load(weights));
    let outputs = e.linear(&mut input, loaded.each_ref());
    for (y, layer) in outputs.into_iter().zip(layers) {
        assert_eq!(e.shape(&y), [x.len() / layer.shape[1], layer.shape[0]]);
        assert_near(&e.values(y), &layer.apply(x, None, weights), "linear");
    }
    assert_eq!(e.values(input), x, "the input keeps its values");
}

fn check_linear_act<E: Engine>(e: &E, weights: &Weights, x: &[f32], layer: &Layer) {
    for act in [Activation::None, Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let y = e.linear_act(&mut rows(e, x, layer.shape[1]), &layer.load(weights), act);
        let expected = layer.apply(x, None, weights).into_iter().map(|y| activated(y, act));
        assert_near(&e.values(y), &expected.collect::<Vec<_>>(), &format!("{act:?}"));
    }
}

fn check_add_linear<E: Engine>(e: &E, weights: &Weights, [residual, x]: [&[f32]; 2], layer: &Layer, scale: &[f32]) {
    let loaded = (layer.load(weights), Vector::load(weights, "scale", scale.len()).unwrap());
    let of_rows = scale.iter().cycle().zip(residual);
    let scaled = layer.apply(x, None, weights).into_iter().zip(of_rows);
    let scaled = scaled.map(|(y, (scale, residual))| Approx::from(*residual) + y * Approx::from(*scale));
    for (scale, expected) in [(None, layer.apply(x, Some(residual), weights)), (Some(&loaded.1), scaled.collect())] {
        let mut x = rows(e, x, layer.shape[1]);
        let y = e.add_linear(rows(e, residual, layer.shape[0]), &mut x, &loaded.0, scale);
        assert_near(&e.values(y), &expected, &format!("add_linear, scaled: {}", scale.is_some()));
    }
}

fn check_silu_gate<E: Engine>(e: &E, weights: &Weights, x: &[f32], layers: [&Layer; 2]) {
    let [gate, up] = layers.map(|layer| layer.load(weights));
    let y = e.silu_gate(&mut rows(e, x, layers[0].shape[1]), &gate, &up);
    let [gate, up] = layers.map(|layer| layer.apply(x, None, weights));
    let expected: Vec<Approx> = gate.into_iter().zip(up).map(|(gate, up)| silu(gate) * up).collect();
    assert_near(&e.values(y), &expected, "silu_gate");
}

/// Numbers of rows of which the host engine multiplies some by its skinny kernel and some by the other.
fn counts() -> impl Strategy<Value = usize> {
    1..3 * SKINNY_MAX_ROWS
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn linear(
        count in counts(), input in 1..70usize, outputs in prop::array::uniform3(1..40usize), bias: bool, seed: u16,
    ) {
        let stored = Stored::new(seed.into());
        let x = stored.noise(count * input);
        let biased = [bias, true, false];
        let layers = [0, 1, 2].map(|i| Layer::draw(&stored, ["a", "b", "c"][i], [outputs[i], input], biased[i]));
        on_each_engine!(stored, |e, weights| check_linear(e, weights, &x, layers.each_ref()));
    }

    #[test]
    fn linear_act(count in counts(), input in 1..70usize, output in 1..40usize, bias: bool, seed: u16) {
        let stored = Stored::new(seed.into());
        let x = stored.noise(count * input);
        let layer = Layer::draw(&stored, "a", [output, input], bias);
        on_each_engine!(stored, |e, weights| check_linear_act(e, weights, &x, &layer));
    }

    #[test]
    fn add_linear(count in counts(), input in 1..70usize, output in 1..40usize, bias: bool, seed: u16) {
        let stored = Stored::new(seed.into());
        let (x, residual) = (stored.noise(count * input), stored.noise(count * output));
        let layer = Layer::draw(&stored, "a", [output, input], bias);
        let scale = stored.vector("scale", output);
        on_each_engine!(stored, |e, weights| check_add_linear(e, weights, [&residual, &x], &layer, &scale));
    }

    #[test]
    fn silu_gate(count in counts(), input in 1..70usize, output in 1..40usize, bias: bool, seed: u16) {
        let stored = Stored::new(seed.into());
        let x = stored.noise(count * input);
        let [gate, up] = ["gate", "up"].map(|name| Layer::draw(&stored, name, [output, input], bias));
        on_each_engine!(stored, |e, weights| check_silu_gate(e, weights, &x, [&gate, &up]));
    }

    /// Inputs that fill whole vectors of packed words, and such that leave a rest.
    #[test]
    fn packed_layers(
        count in counts(), inputs in 1..9usize, outputs in prop::array::uniform2(1..40usize), bias: bool,
        scheme in schemes(), seed: u16,
    ) {
        let (stored, input) = (Stored::packed(seed.into(), scheme), 32 * inputs);
        let (x, residual) = (stored.noise(count * input), stored.noise(count * outputs[0]));
        let layers = [("a", outputs[0]), ("b", outputs[1]), ("up", outputs[0])];
        let layers = layers.map(|(name, output)| Layer::draw(&stored, name, [output, input], bias));
        let scale = stored.vector("scale", outputs[0]);
        on_each_engine!(stored, |e, weights| {
            check_linear(e, weights, &x, layers.each_ref());
            check_linear_act(e, weights, &x, &layers[0]);
            check_add_linear(e, weights, [&residual, &x], &layers[0], &scale);
            check_silu_gate(e, weights, &x, [&layers[0], &layers[2]]);
        });
    }
}
