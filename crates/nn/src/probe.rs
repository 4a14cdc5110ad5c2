use burn::tensor::Tensor;

use crate::moe::Routing;

/// Looks at what a decoder computes on the way, for parity tests and for the tap.
///
/// The empty probe `()` costs nothing.
pub trait Probe {
    /// Output of layer `index` `[B, T, D]`, before any deepstack addition.
    fn layer(&mut self, index: usize, hidden: &Tensor<3>) {
        let _ = (index, hidden);
    }

    /// Routing of layer `index`, if it has experts.
    fn routing(&mut self, index: usize, routing: &Routing) {
        let _ = (index, routing);
    }
}

impl Probe for () {}
