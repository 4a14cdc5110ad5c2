use burn::tensor::Tensor;

use crate::moe::Routing;

/// Looks at what a decoder computes on the way, for parity tests and for the tap.
///
/// The empty probe `()` costs nothing.
pub trait Probe: Send {
    /// Output of layer `index` `[B, T, D]`, before any deepstack addition.
    fn layer(&mut self, index: usize, hidden: &Tensor<3>) {
        let _ = (index, hidden);
    }

    /// Whether [`Probe::layer`] does anything for this layer; what nobody looks at need not become a tensor.
    fn looks_at(&self, index: usize) -> bool {
        let _ = index;
        true
    }

    /// Whether [`Probe::routing`] does anything.
    fn looks_at_routing(&self) -> bool {
        true
    }

    /// Routing of layer `index`, if it has experts.
    fn routing(&mut self, index: usize, routing: &Routing) {
        let _ = (index, routing);
    }
}

impl Probe for () {
    fn looks_at(&self, _: usize) -> bool {
        false
    }

    fn looks_at_routing(&self) -> bool {
        false
    }
}
