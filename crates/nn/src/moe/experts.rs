use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor, TensorData, Transaction};
use checkpoint::{TensorKind, Weights};
use omni_core::Result;

use super::DeviceRouting;
use crate::fused::silu_gate;
use crate::matrix::{HostMatrix, PackedTensor, stacked_numbers};

/// How the chosen experts are computed on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertPath {
    /// Groups tokens by expert on the host and computes each chosen expert once, where its weights lie. Reads only the chosen
    /// experts, at the cost of one small device-to-host copy of the choice.
    Grouped,
    /// Gathers each token's experts into one batched GEMM. Nothing leaves the device, but the gathered experts are copied; right
    /// for a few tokens on a GPU.
    Gathered,
}

/// All experts of one layer.
#[derive(Module, Debug)]
pub struct Experts {
    weights: ExpertWeights,
    experts: usize,
    inner: usize,
}

/// The experts' matrices, in the form their engine multiplies.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One per layer.
enum ExpertWeights {
    /// One parameter per expert and matrix, for training: the gradient of one expert must not be a tensor of all experts.
    Each(Vec<ExpertParams>),
    /// All experts stacked, on a device.
    Dense(StackedExperts),
    /// All experts stacked, as packed integers on a device.
    Packed(PackedExperts),
    /// Gate, up and down of each expert, in host memory.
    Host(HostExperts),
}

/// One expert's matrices on an autodiff device.
#[derive(Module, Debug)]
struct ExpertParams {
    gate_proj: Param<Tensor<2>>,
    up_proj: Param<Tensor<2>>,
    down_proj: Param<Tensor<2>>,
}

/// `[E, 2 * inner, D]`, gate above up, and `[E, D, inner]`.
#[derive(Debug, Clone)]
struct StackedExperts {
    gate_up: Tensor<3>,
    down: Tensor<3>,
}

#[derive(Debug, Clone)]
struct PackedExperts {
    gate_up: PackedTensor,
    down: PackedTensor,
}

#[derive(Debug, Clone)]
struct HostExperts(Arc<[[HostMatrix; 3]]>);

crate::without_parameters!(StackedExperts);
crate::without_parameters!(PackedExperts);
crate::without_parameters!(HostExperts);

/// Most pairs of token and expert for which copying the gathered experts costs less than waiting for the host.
const GATHERED_PAIRS: usize = 64;

impl Experts {
    /// Reads `experts.{e}.{gate,up,down}_proj` of all experts.
    ///
    /// # Errors
    /// The errors of [`Weights::experts`] and [`Weights::matrix`].
    pub fn load(weights: &Weights, experts: usize, width: usize, inner: usize) -> Result<Self> {
        let sizes = [experts, width, inner];
        let packed = |part: Weights| part.is_packed();
        let weights = if weights.place().is_host() {
            load_host(weights, sizes)?
        } else if (0..experts).any(|e| PARTS.iter().any(|name| packed(part(weights, e, name)))) {
            load_packed(weights, sizes)?
        } else if weights.device().is_autodiff() || weights.is_recording() {
            load_each(weights, sizes)?
        } else {
            // Uploaded rows may be padded, and to pack them again at every use would copy all experts.
            ExpertWeights::Dense(StackedExperts {
                gate_up: gpu_kernels::contiguous(weights.experts(
                    experts,
                    &["gate_proj", "up_proj"],
                    [inner, width],
                )?),
                down: gpu_kernels::contiguous(weights.experts(experts, &["down_proj"], [width, inner])?),
            })
        };
        Ok(Self { weights, experts, inner })
    }

    /// Gate, up and down of each expert in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub(crate) fn host(&self) -> &[[HostMatrix; 3]] {
        match &self.weights {
            ExpertWeights::Host(experts) => &experts.0,
            _ => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// Width of one expert.
    pub(crate) fn inner(&self) -> usize {
        self.inner
    }

    /// `residual` plus the weighted sum of the chosen experts on a device, for few pairs of token and expert and for many; where kernels
    /// do not take them, by a path.
    ///
    /// # Shapes
    /// `[N, D]` → `[N, D]`.
    pub(crate) fn on_device(&self, residual: Tensor<2>, x: Tensor<2>, routing: &DeviceRouting) -> Tensor<2> {
        let [tokens, top_k] = routing.index.dims();
        let gathered = tokens * top_k <= GATHERED_PAIRS;
        let DeviceRouting { index, weights, .. } = routing;
        let plain = |residual, x| residual + self.forward_by(ExpertPath::Grouped, x, routing);
        match &self.weights {
            ExpertWeights::Dense(StackedExperts { gate_up, down }) => {
                let matrices = gpu_kernels::Matrices { gate_up, down };
                if gathered {
                    return gpu_kernels::experts(residual, x, index.clone(), weights.clone(), matrices);
                }
                gpu_kernels::experts_grouped(&residual, &x, index, weights, matrices)
                    .unwrap_or_else(|| plain(residual, x))
            }
            ExpertWeights::Packed(PackedExperts { gate_up, down }) => {
                let matrices = gpu_kernels::PackedMatrices { gate_up: gate_up.packed(), down: down.packed() };
                if gathered {
                    return gpu_kernels::experts_packed(&residual, &x, index, weights, &matrices)
                        .unwrap_or_else(|| residual + self.forward_by(ExpertPath::Gathered, x, routing));
                }
                gpu_kernels::experts_grouped_packed(&residual, &x, index, weights, &matrices)
                    .unwrap_or_else(|| plain(residual, x))
            }
            _ => plain(residual, x),
        }
    }

    /// Computes the experts on a device by the given path.
    fn forward_by(&self, path: ExpertPath, x: Tensor<2>, routing: &DeviceRouting) -> Tensor<2> {
        let ([tokens, top_k], width) = (routing.index.dims(), x.dims()[1]);
        let outputs = match path {
            ExpertPath::Gathered => self.gathered(x, routing),
            ExpertPath::Grouped => self.grouped(x, routing),
        }; // [N * k, D]
        let weights = routing.weights.clone().reshape([tokens, 1, top_k]);
        weights.matmul(outputs.reshape([tokens, top_k, width])).reshape([tokens, width]) // [N, D]
    }

    fn gathered(&self, x: Tensor<2>, routing: &DeviceRouting) -> Tensor<2> {
        let ([tokens, top_k], [_, width]) = (routing.index.dims(), x.dims());
        let index = routing.index.clone().reshape([tokens * top_k]);
        let x = x.unsqueeze_dim::<3>(1).repeat_dim(1, top_k).reshape([tokens * top_k, 1, width]);
        let gate_up = self.chosen(Part::GateUp, index.clone()); // [N * k, 2 * inner, D]
        let inner = activate(x.matmul(gate_up.swap_dims(1, 2)).flatten::<2>(0, 1)); // [N * k, inner]
        let down = self.chosen(Part::Down, index); // [N * k, D, inner]
        inner.unsqueeze_dim::<3>(1).matmul(down.swap_dims(1, 2)).flatten(0, 1) // [N * k, D]
    }

    fn grouped(&self, x: Tensor<2>, routing: &DeviceRouting) -> Tensor<2> {
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
            ExpertWeights::Each(experts) => {
                let ExpertParams { gate_proj, up_proj, down_proj } = &experts[expert];
                let [gate, up] = [gate_proj, up_proj].map(|matrix| x.clone().matmul(matrix.val().transpose()));
                return silu_gate(gate, up).matmul(down_proj.val().transpose());
            }
            ExpertWeights::Dense(StackedExperts { gate_up, down }) => {
                [gate_up, down].map(|matrices| matrices.clone().narrow(0, expert, 1).squeeze_dim::<2>(0))
            }
            ExpertWeights::Packed(PackedExperts { gate_up, down }) => {
                let rows = |height: usize| expert * height..(expert + 1) * height;
                [gate_up.rows(rows(2 * self.inner)).numbers(), down.rows(rows(width)).numbers()]
            }
            ExpertWeights::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }; // [2 * inner, D], [D, inner]
        activate(x.matmul(gate_up.transpose())).matmul(down.transpose())
    }

    /// Matrices of the given experts `[n, out, in]`.
    fn chosen(&self, part: Part, index: Tensor<1, Int>) -> Tensor<3> {
        match (&self.weights, part) {
            (ExpertWeights::Dense(stacked), Part::GateUp) => stacked.gate_up.clone().select(0, index),
            (ExpertWeights::Dense(stacked), Part::Down) => stacked.down.clone().select(0, index),
            (ExpertWeights::Packed(packed), Part::GateUp) => packed.gate_up.select(self.experts, index),
            (ExpertWeights::Packed(packed), Part::Down) => packed.down.select(self.experts, index),
            _ => unreachable!("only stacked experts are gathered"),
        }
    }
}

fn part<'a>(weights: &Weights<'a>, expert: usize, name: &str) -> Weights<'a> {
    weights.at(format!("experts.{expert}.{name}"))
}

fn load_host(weights: &Weights, [experts, width, inner]: [usize; 3]) -> Result<ExpertWeights> {
    let load = |expert, name, shape| HostMatrix::load(&part(weights, expert, name), shape);
    let each = (0..experts).map(|e| {
        let (into, back) = ([inner, width], [width, inner]);
        Ok([load(e, "gate_proj", into)?, load(e, "up_proj", into)?, load(e, "down_proj", back)?])
    });
    Ok(ExpertWeights::Host(HostExperts(each.collect::<Result<Vec<_>>>()?.into())))
}

fn load_each(weights: &Weights, [experts, width, inner]: [usize; 3]) -> Result<ExpertWeights> {
    let load = |e, name, shape: [usize; 2]| part(weights, e, name).matrix_param(shape, TensorKind::Linear);
    let each = (0..experts).map(|e| {
        Ok(ExpertParams {
            gate_proj: load(e, "gate_proj", [inner, width])?,
            up_proj: load(e, "up_proj", [inner, width])?,
            down_proj: load(e, "down_proj", [width, inner])?,
        })
    });
    Ok(ExpertWeights::Each(each.collect::<Result<_>>()?))
}

fn load_packed(weights: &Weights, [experts, width, inner]: [usize; 3]) -> Result<ExpertWeights> {
    let parts = |names: &'static [&'static str]| {
        (0..experts).flat_map(move |e| names.iter().map(move |name| part(weights, e, name)))
    };
    let (into, back) = ([inner, width], [width, inner]);
    let gate_up = PackedTensor::stacked(parts(&PARTS[..2]), into)?;
    Ok(match (gate_up, PackedTensor::stacked(parts(&PARTS[2..]), back)?) {
        (Some(gate_up), Some(down)) => ExpertWeights::Packed(PackedExperts { gate_up, down }),
        // Experts that are not all packed alike can only be stacked as floats.
        _ => ExpertWeights::Dense(StackedExperts {
            gate_up: stacked_numbers(parts(&PARTS[..2]), into)?.reshape([experts, 2 * inner, width]),
            down: stacked_numbers(parts(&PARTS[2..]), back)?.reshape([experts, width, inner]),
        }),
    })
}

const PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

#[derive(Clone, Copy)]
enum Part {
    GateUp,
    Down,
}

/// Reads the ids of a tensor into host memory.
pub(crate) fn host_ids<const D: usize>(ids: &Tensor<D, Int>) -> Vec<u32> {
    let ids = ids.to_data().try_to_vec_as::<i64>().expect("ids are integers");
    ids.into_iter().map(|id| id as u32).collect()
}

/// Reads the ids of several tensors into host memory, one after another: in one read, because each waits for the device.
pub(crate) fn host_ids_of(parts: impl IntoIterator<Item = Tensor<1, Int>>) -> Vec<u32> {
    let all = parts.into_iter().fold(Transaction::default(), |all, ids| all.register(ids));
    let ids = |data: TensorData| data.try_to_vec_as::<i64>().expect("ids are integers");
    all.execute().into_iter().flat_map(ids).map(|id| id as u32).collect()
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
    use crate::{Engine, HostEngine};
    use omni_core::{Dtype, Place};

    #[test]
    fn all_forms_and_paths_agree() {
        let [experts, width, inner] = [6, 64, 32];
        let flex = Device::flex();
        let packed = |bits| checkpoint::Scheme { bits, group: Some(32), symmetric: true };
        for scheme in [None, Some(packed(4)), Some(packed(8))] {
            let weights = |place: &Place| match &scheme {
                Some(scheme) => Weights::random_packed(place, Dtype::F32, scheme.clone()),
                None => Weights::random(place, Dtype::F32),
            };
            let host = Experts::load(&weights(&Place::Host(flex.clone())), experts, width, inner).unwrap();
            let gate =
                Router::load(&Weights::random(&Place::Host(flex.clone()), Dtype::F32), [experts, width], 3, true);
            let (engine, gate) = (HostEngine::new(&flex, false), gate.unwrap());
            let mut others = vec![dense(&host, width)];
            others.extend(
                scheme
                    .is_some()
                    .then(|| Experts::load(&weights(&Place::Device(flex.clone())), experts, width, inner).unwrap()),
            );
            for tokens in [1, 2, 9] {
                let x = Tensor::<2>::random([tokens, width], burn::tensor::Distribution::Default, &flex);
                let mut rows = engine.rows(&[&x]);
                let routing = engine.route(&mut rows, &gate, &[tokens]);
                let zero = engine.rows(&[&Tensor::zeros([tokens, width], &flex)]);
                let y = engine.values(engine.experts(zero, &mut rows, &routing, &host));
                let y = Tensor::<2>::from_data(TensorData::new(y, [tokens, width]), &flex);
                let seen = engine.routing(&routing, 0..tokens);
                let index = seen.index.iter().map(|id| i64::from(*id)).collect::<Vec<_>>();
                let index = Tensor::from_data(TensorData::new(index, [tokens, 3]), &flex);
                let routing = DeviceRouting { logits: seen.logits, weights: seen.weights, index };
                for other in &others {
                    for path in [ExpertPath::Gathered, ExpertPath::Grouped] {
                        let other = other.forward_by(path, x.clone(), &routing);
                        let most = other.clone().abs().max().into_scalar::<f32>();
                        let difference = (other - y.clone()).abs().max().into_scalar::<f32>();
                        // Beside packed weights, the inputs of GEMMs of many rows are rounded to bf16.
                        let tolerance = if scheme.is_some() && tokens >= 8 { 2e-2 } else { 1e-4 };
                        assert!(difference < tolerance * most, "{scheme:?}, {tokens} tokens, {path:?}: {difference}");
                    }
                }
            }
        }
    }

    /// The same experts as plain tensors.
    fn dense(experts: &Experts, width: usize) -> Experts {
        let device = Device::flex();
        let values = |parts: &[usize]| -> Vec<f32> {
            let matrices = experts.host().iter().flat_map(|expert| parts.iter().map(|part| &expert[*part]));
            let rows = |matrix: &HostMatrix| {
                let [output, input] = matrix.shape();
                let mut values = vec![0.0; output * input];
                let each = values.chunks_exact_mut(input).enumerate();
                each.for_each(|(row, values)| matrix.weight().read(row, input, 0, values));
                values
            };
            matrices.flat_map(rows).collect()
        };
        let (count, inner) = (experts.experts, experts.inner);
        let tensor = |values, shape: [usize; 3]| Tensor::from_data(TensorData::new(values, shape), &device);
        let weights = ExpertWeights::Dense(StackedExperts {
            gate_up: tensor(values(&[0, 1]), [count, 2 * inner, width]),
            down: tensor(values(&[2]), [count, width, inner]),
        });
        Experts { weights, experts: count, inner }
    }
}
