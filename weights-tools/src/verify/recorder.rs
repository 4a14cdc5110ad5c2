use burn::tensor::{Int, Tensor};
use nn::Probe;
use nn::moe::Routing;

use super::case::{Case, STATES};

/// Keeps what a decoder shows on the way.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) layers: Vec<Tensor<3>>,
    routing: Vec<(usize, Routing)>,
}

impl Probe for Recorder {
    fn layer(&mut self, _: usize, hidden: &Tensor<3>) {
        self.layers.push(hidden.clone());
    }

    fn routing(&mut self, index: usize, routing: &Routing) {
        self.routing.push((index, routing.clone()));
    }
}

impl Recorder {
    /// Compares layers and routing; `prefix` stands before the names.
    pub(crate) fn compare(self, case: &mut Case, prefix: &str) {
        for (index, hidden) in self.layers.into_iter().enumerate() {
            case.compare(&format!("{prefix}layer_{index}"), hidden, STATES);
        }
        for (index, Routing { logits, weights, index: chosen }) in self.routing {
            case.compare(&format!("{prefix}router_logits_{index}"), logits, STATES);
            case.compare(&format!("{prefix}router_weights_{index}"), weights, STATES);
            let (values, shape) = host_ints(chosen);
            case.compare_ints(&format!("{prefix}router_index_{index}"), &values, &shape);
        }
    }
}

/// Integers on the host, with their shape.
pub(crate) fn host_ints<const D: usize>(tensor: Tensor<D, Int>) -> (Vec<i64>, Vec<usize>) {
    let shape = tensor.dims().to_vec();
    (tensor.into_data().try_to_vec_as().expect("an integer tensor can be read as i64"), shape)
}
