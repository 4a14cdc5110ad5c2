use burn::tensor::activation::softmax;
use burn::tensor::{DType, Tensor};
use nn::Probe;
use nn::moe::Routing;

use super::vectors::constants;

/// Keeps the routing of every layer of one run, for the balancing loss.
#[derive(Debug, Default)]
pub struct RouterTap {
    layers: Vec<Routing>,
}

impl Probe for RouterTap {
    fn wants_layer(&self, _: usize) -> bool {
        false
    }

    fn routing(&mut self, _: usize, routing: &Routing) {
        self.layers.push(routing.clone());
    }
}

/// Load balancing of a mixture of experts (`load_balancing_loss_func` of the reference): `E · Σ_e f_e P_e`, with `f_e` the share of
/// choices and `P_e` the mean probability of an expert, both pooled over the layers and rows of all runs before the product.
///
/// It is the number of chosen experts per row when the experts are chosen evenly. `None` if no layer has experts.
///
/// # Shapes
/// → `[1]`; `f` carries no gradient.
pub fn load_balance(taps: &[RouterTap]) -> Option<Tensor<1>> {
    let layers = || taps.iter().flat_map(|tap| &tap.layers);
    let experts = layers().next()?.logits.dims()[1];
    let rows: usize = layers().map(|layer| layer.logits.dims()[0]).sum();
    let mut chosen = vec![0f32; experts];
    layers().flat_map(|layer| &layer.index).for_each(|expert| chosen[*expert as usize] += 1.0);
    let probabilities =
        layers().map(|layer| softmax(layer.logits.clone().cast(DType::F32), 1).sum_dim(0).flatten::<1>(0, 1));
    let probabilities = probabilities.reduce(|sum, of_layer| sum + of_layer)? / rows as f64; // [E]
    let share = chosen.into_iter().map(|count| count / rows as f32).collect();
    let share = constants(share, &probabilities.device()); // [E]
    Some((share * probabilities).sum() * experts as f64)
}
