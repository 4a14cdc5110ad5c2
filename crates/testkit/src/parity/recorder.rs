use burn::tensor::Tensor;
use nn::Probe;
use nn::moe::Routing;

use super::case::{Case, STATES};

/// Records the intermediate results of a decoder.
#[derive(Default)]
pub(crate) struct Recorder {
    layers: Vec<Tensor<2>>,
    routing: Vec<(usize, Routing)>,
}

impl Probe for Recorder {
    fn layer(&mut self, _: usize, hidden: &Tensor<2>) {
        self.layers.push(hidden.clone());
    }

    fn routing(&mut self, index: usize, routing: &Routing) {
        self.routing.push((index, routing.clone()));
    }
}

impl Recorder {
    /// Compares layers and routing; `prefix` precedes the tensor names, `parts` name the routing in the reference's errors.
    pub(crate) fn compare(self, case: &mut Case, prefix: &str, parts: &[&str]) {
        for (index, hidden) in self.layers.into_iter().enumerate() {
            case.compare(&format!("{prefix}layer_{index}"), hidden, STATES);
        }
        let (mut experts, mut top_k) = (Vec::new(), 1);
        for (index, Routing { logits, weights, index: chosen }) in self.routing {
            top_k = weights.dims()[1];
            case.compare(&format!("{prefix}router_logits_{index}"), logits, STATES);
            case.compare(&format!("{prefix}router_weights_{index}"), weights, STATES);
            experts.push((format!("{prefix}router_index_{index}"), chosen));
        }
        case.compare_routing(&experts, top_k, parts);
    }
}
