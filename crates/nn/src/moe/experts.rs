use std::sync::Arc;

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use checkpoint::Weights;
use kernels::{Choice, Expert, ExpertsMemory, Inputs};
use omni_core::Result;

use super::Routing;
use crate::host::{is_host, numbers, product, with_numbers};
use crate::matrix::{HostMatrix, PackedTensor, stacked_numbers};

/// How the chosen experts are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertPath {
    /// Tokens are grouped by expert on the host (one small read of the choice), each expert is computed once where it
    /// lies. Reads only the chosen experts; the choice costs a device-to-host copy.
    Grouped,
    /// Each token's experts are gathered into one batched product; nothing leaves the device, but the gathered experts
    /// are copied. Right for a few tokens on a GPU.
    Gathered,
}

/// All experts of one layer.
#[derive(Module, Debug)]
pub struct Experts {
    #[module(skip)]
    weights: ExpertWeights,
    experts: usize,
    inner: usize,
}

/// The matrices, in the form their device multiplies them in.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // One per layer.
enum ExpertWeights {
    /// `[E, 2 * inner, D]`, gate above up, and `[E, D, inner]`.
    Dense { gate_up: Tensor<3>, down: Tensor<3> },
    /// The same below one another, as integers.
    Packed { gate_up: PackedTensor, down: PackedTensor },
    /// Gate, up and down of each expert, where they lie.
    Host(Arc<[[HostMatrix; 3]]>),
}

/// Up to here, gathering copies less than waiting for the host costs.
const GATHERED_PAIRS: usize = 64;

impl Experts {
    /// Reads `experts.{e}.{gate,up,down}_proj` of all experts.
    ///
    /// # Errors
    /// As [`Weights::experts`] and [`Weights::matrix`].
    pub fn load(weights: &Weights, experts: usize, width: usize, inner: usize) -> Result<Self> {
        let part = |expert: usize, name: &str| weights.at(format!("experts.{expert}.{name}"));
        let all = 0..experts;
        let weights = if is_host(weights.device()) {
            let host = |expert, name, shape| HostMatrix::load(&part(expert, name), shape);
            let experts = all.map(|e| {
                let (into, back) = ([inner, width], [width, inner]);
                Ok([host(e, "gate_proj", into)?, host(e, "up_proj", into)?, host(e, "down_proj", back)?])
            });
            ExpertWeights::Host(experts.collect::<Result<Vec<_>>>()?.into())
        } else if all.clone().any(|e| PARTS.iter().any(|name| part(e, name).is_packed())) {
            let parts = |names: &'static [&'static str]| {
                let part = &part;
                all.clone().flat_map(move |e| names.iter().map(move |name| part(e, name)))
            };
            let (into, back) = ([inner, width], [width, inner]);
            match (PackedTensor::stacked(parts(&PARTS[..2]), into)?, PackedTensor::stacked(parts(&PARTS[2..]), back)?) {
                (Some(gate_up), Some(down)) => ExpertWeights::Packed { gate_up, down },
                // Experts that are packed each in its own way have nothing in common but their values.
                _ => ExpertWeights::Dense {
                    gate_up: stacked_numbers(parts(&PARTS[..2]), into)?.reshape([experts, 2 * inner, width]),
                    down: stacked_numbers(parts(&PARTS[2..]), back)?.reshape([experts, width, inner]),
                },
            }
        } else {
            ExpertWeights::Dense {
                gate_up: weights.experts(experts, &["gate_proj", "up_proj"], [inner, width])?,
                down: weights.experts(experts, &["down_proj"], [width, inner])?,
            }
        };
        Ok(Self { weights, experts, inner })
    }

    /// Gate, up and down of each expert, if they lie in host memory.
    pub(crate) fn host(&self) -> Option<&Arc<[[HostMatrix; 3]]>> {
        match &self.weights {
            ExpertWeights::Host(experts) => Some(experts),
            _ => None,
        }
    }

    /// Weighted sum of the chosen experts; the path is chosen by device and number of tokens.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`.
    pub fn forward(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        if let ExpertWeights::Host(experts) = &self.weights {
            return self.on_host(experts, &x, routing);
        }
        let [tokens, top_k] = routing.index.dims();
        let gathered = tokens * top_k <= GATHERED_PAIRS;
        self.forward_by(if gathered { ExpertPath::Gathered } else { ExpertPath::Grouped }, x, routing)
    }

    fn on_host(&self, experts: &[[HostMatrix; 3]], x: &Tensor<2>, routing: &Routing) -> Tensor<2> {
        let ([tokens, top_k], width) = (routing.index.dims(), x.dims()[1]);
        let (shares, index) = (numbers(&routing.weights), host_ids(&routing.index));
        let pairs = index.iter().zip(shares).enumerate();
        let choices: Vec<Choice> = pairs
            .map(|(pair, (expert, share))| Choice { expert: *expert as usize, row: pair / top_k, run: 0, share })
            .collect();
        let mut inputs = Inputs::default();
        with_numbers(x, |x| inputs.set(x, width));
        let mut y = vec![0.0; tokens * width];
        let (memory, precision) = (&mut ExpertsMemory::default(), experts[0][0].precision);
        kernels::experts(memory, &mut inputs, &choices, self.inner, |e| expert_of(&experts[e]), precision, &mut y);
        Tensor::from_data(TensorData::new(y, [tokens, width]), &x.device())
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
        let gate_up = self.chosen(Part::GateUp, index.clone()); // [N * k, 2 * inner, D]
        let inner = activate(x.matmul(gate_up.swap_dims(1, 2)).flatten::<2>(0, 1)); // [N * k, inner]
        let down = self.chosen(Part::Down, index); // [N * k, D, inner]
        inner.unsqueeze_dim::<3>(1).matmul(down.swap_dims(1, 2)).flatten(0, 1) // [N * k, D]
    }

    fn grouped(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let [tokens, top_k] = routing.index.dims();
        let device = x.device();
        let choice = host_ids(&routing.index);
        let mut by_expert: Vec<Vec<usize>> = vec![Vec::new(); self.experts];
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
        let width = x.dims()[1];
        let [gate_up, down] = match &self.weights {
            ExpertWeights::Dense { gate_up, down } => {
                [gate_up, down].map(|matrices| matrices.clone().narrow(0, expert, 1).squeeze_dim::<2>(0))
            }
            ExpertWeights::Packed { gate_up, down } => {
                let rows = |height: usize| expert * height..(expert + 1) * height;
                [gate_up.rows(rows(2 * self.inner)).numbers(), down.rows(rows(width)).numbers()]
            }
            ExpertWeights::Host(_) => unreachable!("the CPU has a path of its own"),
        }; // [2 * inner, D], [D, inner]
        product(activate(product(x, gate_up, None)), down, None)
    }

    /// Matrices of the given experts `[n, out, in]`.
    fn chosen(&self, part: Part, index: Tensor<1, Int>) -> Tensor<3> {
        match (&self.weights, part) {
            (ExpertWeights::Dense { gate_up, .. }, Part::GateUp) => gate_up.clone().select(0, index),
            (ExpertWeights::Dense { down, .. }, Part::Down) => down.clone().select(0, index),
            (ExpertWeights::Packed { gate_up, .. }, Part::GateUp) => gate_up.select(self.experts, index),
            (ExpertWeights::Packed { down, .. }, Part::Down) => down.select(self.experts, index),
            (ExpertWeights::Host(_), _) => unreachable!("the CPU has a path of its own"),
        }
    }
}

const PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

#[derive(Clone, Copy)]
enum Part {
    GateUp,
    Down,
}

/// The matrices of one expert, for the products of the `kernels` crate.
pub(crate) fn expert_of([gate, up, down]: &[HostMatrix; 3]) -> Expert<'_> {
    Expert { gate: gate.weight(), up: up.weight(), down: down.weight() }
}

fn host_ids(index: &Tensor<2, Int>) -> Vec<i64> {
    index.to_data().try_to_vec_as().expect("expert numbers are integers")
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

    /// The same experts as tensors, for the device's paths.
    fn dense(experts: &Experts, width: usize) -> Experts {
        let device = Device::flex();
        let host = experts.host().unwrap();
        let values = |parts: &[usize]| -> Vec<f32> {
            let matrices = host.iter().flat_map(|expert| parts.iter().map(|part| &expert[*part].stored));
            let rows = |stored: &checkpoint::StoredMatrix| {
                let [output, input] = stored.shape();
                let mut values = vec![0.0; output * input];
                let each = values.chunks_exact_mut(input).enumerate();
                each.for_each(|(row, values)| stored.weight().read(row, input, 0, values));
                values
            };
            matrices.flat_map(rows).collect()
        };
        let (count, inner) = (experts.experts, experts.inner);
        let tensor = |values, shape: [usize; 3]| Tensor::from_data(TensorData::new(values, shape), &device);
        let weights = ExpertWeights::Dense {
            gate_up: tensor(values(&[0, 1]), [count, 2 * inner, width]),
            down: tensor(values(&[2]), [count, width, inner]),
        };
        Experts { weights, experts: count, inner }
    }

    /// The same experts as integers on the device.
    fn packed(experts: &Experts) -> Experts {
        let device = Device::flex();
        let host = experts.host().unwrap();
        let stack = |parts: &[usize]| {
            let matrices = host.iter().flat_map(|expert| parts.iter().map(|part| &expert[*part].stored));
            let packed = matrices.map(|stored| PackedTensor::new(stored, &device, Dtype::F32).unwrap());
            PackedTensor::joined(packed.collect())
        };
        let weights = ExpertWeights::Packed { gate_up: stack(&[0, 1]), down: stack(&[2]) };
        Experts { weights, experts: experts.experts, inner: experts.inner }
    }

    #[test]
    fn all_paths_agree() {
        let device = Device::flex();
        let schemes = [None, Some(4), Some(8)]
            .map(|bits: Option<u32>| bits.map(|bits| checkpoint::Scheme { bits, group: Some(32), symmetric: true }));
        for scheme in schemes {
            let weights = match &scheme {
                Some(scheme) => Weights::random_packed(&device, Dtype::F32, scheme.clone()),
                None => Weights::random(&device, Dtype::F32),
            };
            let experts = Experts::load(&weights, 6, 64, 32).unwrap();
            let router = Router::load(&Weights::random(&device, Dtype::F32), [6, 64], 3, true).unwrap();
            for tokens in [1, 2, 9] {
                let x = Tensor::random([tokens, 64], burn::tensor::Distribution::Default, &device);
                let routing = router.forward(x.clone());
                let on_host = experts.forward(x.clone(), &routing);
                let mut others = vec![dense(&experts, 64)];
                others.extend(scheme.is_some().then(|| packed(&experts)));
                for other in &others {
                    for path in [ExpertPath::Gathered, ExpertPath::Grouped] {
                        let y = other.forward_by(path, x.clone(), &routing);
                        let most = y.clone().abs().max().into_scalar::<f32>();
                        let difference = (y - on_host.clone()).abs().max().into_scalar::<f32>();
                        // Many rows are rounded to bf16 beside packed weights.
                        let tolerance = if scheme.is_some() && tokens >= 8 { 2e-2 } else { 1e-4 };
                        assert!(difference < tolerance * most, "{scheme:?}, {tokens} tokens, {path:?}: {difference}");
                    }
                }
            }
        }
    }
}
