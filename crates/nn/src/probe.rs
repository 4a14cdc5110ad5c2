use burn::tensor::Tensor;

use crate::moe::Routing;

/// Observes the intermediate results of one run through a decoder, for parity tests, for the tap and for losses.
///
/// The empty probe `()` costs nothing.
pub trait Probe: Send {
    /// Output of layer `index` `[T, D]`, before any deepstack addition.
    fn layer(&mut self, index: usize, hidden: &Tensor<2>) {
        let _ = (index, hidden);
    }

    /// Whether [`Probe::layer`] uses this layer; if not, no tensor is made for it.
    fn wants_layer(&self, index: usize) -> bool {
        let _ = index;
        true
    }

    /// Routing of layer `index`, if it has experts.
    fn routing(&mut self, index: usize, routing: &Routing) {
        let _ = (index, routing);
    }

    /// Whether [`Probe::routing`] does anything; if not, no routing is read for it.
    fn wants_routing(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for dyn Probe + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probe")
    }
}

impl Probe for () {
    fn wants_layer(&self, _: usize) -> bool {
        false
    }

    fn wants_routing(&self) -> bool {
        false
    }
}
