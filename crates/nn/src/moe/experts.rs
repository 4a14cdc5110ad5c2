use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use checkpoint::Weights;
use omni_core::Result;

use super::Routing;
use crate::host::{is_host, product};

/// How the chosen experts are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertPath {
    /// Tokens are grouped by expert on the host (one small read of the choice), each expert is computed once where it
    /// lies. Reads only the chosen experts; the choice costs a device-to-host copy except on the CPU.
    Grouped,
    /// Each token's experts are gathered into one batched product; nothing leaves the device, but the gathered experts
    /// are copied. Right for a few tokens on a GPU.
    Gathered,
}

/// All experts of one layer, packed `[out, in]` as on disk.
#[derive(Module, Debug)]
pub struct Experts {
    /// `[E, 2 * inner, D]`: gate above up.
    pub gate_up_proj: Param<Tensor<3>>,
    /// `[E, D, inner]`.
    pub down_proj: Param<Tensor<3>>,
    on_host: bool,
}

/// Up to here, gathering copies less than waiting for the host costs.
const GATHERED_PAIRS: usize = 64;

impl Experts {
    /// Reads `experts.{e}.{gate,up,down}_proj` of all experts.
    ///
    /// # Errors
    /// As [`Weights::experts`].
    pub fn load(weights: &Weights, experts: usize, width: usize, inner: usize) -> Result<Self> {
        let gate_up = weights.experts(experts, &["gate_proj", "up_proj"], [inner, width])?;
        let down = weights.experts(experts, &["down_proj"], [width, inner])?;
        let on_host = is_host(weights.device());
        Ok(Self { gate_up_proj: Param::from_tensor(gate_up), down_proj: Param::from_tensor(down), on_host })
    }

    /// Weighted sum of the chosen experts; the path is chosen by device and number of tokens.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`.
    pub fn forward(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let [tokens, top_k] = routing.index.dims();
        let gathered = !self.on_host && tokens * top_k <= GATHERED_PAIRS;
        self.forward_by(if gathered { ExpertPath::Gathered } else { ExpertPath::Grouped }, x, routing)
    }

    /// As [`Experts::forward`], by a given path.
    pub fn forward_by(&self, path: ExpertPath, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let ([tokens, top_k], width) = (routing.index.dims(), x.dims()[1]);
        let outputs = match path {
            ExpertPath::Gathered => self.gathered(x, routing),
            ExpertPath::Grouped => self.grouped(x, routing),
        }; // [N * k, D]
        let weights = routing.weights.clone().reshape([tokens, 1, top_k]);
        weights.matmul(outputs.reshape([tokens, top_k, width])).reshape([tokens, width]) // [N, D]
    }

    fn gathered(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let ([tokens, top_k], [_, width]) = (routing.index.dims(), x.dims());
        let index = routing.index.clone().reshape([tokens * top_k]);
        let x = x.unsqueeze_dim::<3>(1).repeat_dim(1, top_k).reshape([tokens * top_k, 1, width]);
        let gate_up = self.gate_up_proj.val().select(0, index.clone()); // [N * k, 2 * inner, D]
        let inner = activate(x.matmul(gate_up.swap_dims(1, 2)).flatten::<2>(0, 1)); // [N * k, inner]
        let down = self.down_proj.val().select(0, index); // [N * k, D, inner]
        inner.unsqueeze_dim::<3>(1).matmul(down.swap_dims(1, 2)).flatten(0, 1) // [N * k, D]
    }

    fn grouped(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let [tokens, top_k] = routing.index.dims();
        let device = x.device();
        let choice = routing.index.to_data().try_to_vec_as::<i64>().expect("expert numbers are integers");
        let mut by_expert: Vec<Vec<usize>> = vec![Vec::new(); self.down_proj.dims()[0]];
        for (pair, expert) in choice.iter().enumerate() {
            by_expert[*expert as usize].push(pair);
        }
        let (mut outputs, mut place, mut done) = (Vec::new(), vec![0i64; tokens * top_k], 0);
        for (expert, pairs) in by_expert.iter().enumerate().filter(|(_, pairs)| !pairs.is_empty()) {
            let rows = if tokens == 1 {
                x.clone()
            } else {
                x.clone().select(0, integers(pairs.iter().map(|pair| (pair / top_k) as i64).collect(), &device))
            };
            outputs.push(self.expert(expert, rows));
            for pair in pairs {
                place[*pair] = done;
                done += 1;
            }
        }
        Tensor::cat(outputs, 0).select(0, integers(place, &device)) // [N * k, D]
    }

    /// `[n, D]` → `[n, D]` through one expert, without copying its weights.
    fn expert(&self, expert: usize, x: Tensor<2>) -> Tensor<2> {
        let gate_up = self.gate_up_proj.val().narrow(0, expert, 1).squeeze_dim::<2>(0); // [2 * inner, D]
        let down = self.down_proj.val().narrow(0, expert, 1).squeeze_dim::<2>(0); // [D, inner]
        product(activate(product(x, gate_up, None)), down, None)
    }
}

/// `[n, 2 * inner]` → `[n, inner]`: silu of the gate half times the up half.
fn activate(gate_up: Tensor<2>) -> Tensor<2> {
    let inner = gate_up.dims()[1] / 2;
    silu(gate_up.clone().narrow(1, 0, inner)) * gate_up.narrow(1, inner, inner)
}

fn integers(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moe::Router;
    use omni_core::Dtype;

    #[test]
    fn both_paths_agree() {
        let device = Device::flex();
        let weights = Weights::random(&device, Dtype::F32);
        let experts = Experts::load(&weights, 6, 16, 12).unwrap();
        let router = Router::load(&weights, [6, 16], 3, true).unwrap();
        for tokens in [1, 2, 9] {
            let x = Tensor::random([tokens, 16], burn::tensor::Distribution::Default, &device);
            let routing = router.forward(x.clone());
            let [a, b] =
                [ExpertPath::Gathered, ExpertPath::Grouped].map(|path| experts.forward_by(path, x.clone(), &routing));
            let difference = (a - b).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{tokens} tokens: {difference}");
        }
    }
}
