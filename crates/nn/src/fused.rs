//! Operations of the device engine that run as one function with its own gradient in host memory, as one kernel on a GPU, and as plain
//! tensor operations elsewhere.

use burn::tensor::{DType, Tensor};

use crate::host_gradient::{HostFunction, HostInput, Values, has_host_gradients, host_function};

/// `silu(gate) * up`.
pub(crate) fn silu_gate(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let inputs = [HostInput::new(gate.clone()), HostInput::new(up.clone())];
    host_function(&SiluGate, inputs).unwrap_or_else(|| gpu_kernels::silu_gate(gate, up))
}

/// Exact GELU: `x * (1 + erf(x / √2)) / 2`.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    host_function(&Gelu, [HostInput::new(x.clone())]).unwrap_or_else(|| gpu_kernels::gelu(x))
}

/// Exact GELU of rows `[N, D]` to which a bias `[D]` is added first.
pub(crate) fn bias_gelu(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    let inputs = [HostInput::new(x.clone()), HostInput::new(bias.clone())];
    host_function(&Gelu, inputs).unwrap_or_else(|| burn::tensor::activation::gelu(x + bias.unsqueeze()))
}

/// Softmax over the last axis of `scores` `[B, K, G * T, S]` in f32, as numbers of their type. A bias `[1, 1, 1, T, S]`, if there is
/// one, is added first.
pub(crate) fn softmax(scores: Tensor<4>, bias: Option<&Tensor<5>>) -> Tensor<4> {
    let dtype = scores.dtype();
    // Functions with gradients of their own are in f32; a kernel widens by itself.
    let scores = if scores.device().is_autodiff() { scores.cast(DType::F32) } else { scores };
    let found = match bias {
        None => host_function(&Softmax, [HostInput::new(scores.clone())]),
        Some(bias) => host_function(&Softmax, [HostInput::new(scores.clone()), HostInput::new(bias.clone())]),
    };
    match found {
        Some(weights) => weights.cast(dtype),
        None => gpu_kernels::softmax(scores, bias, dtype),
    }
}

/// RMSNorm of the last axis.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let inputs = [HostInput::new(x.clone()), HostInput::new(weight.clone())];
    host_function(&RmsNorm { eps: eps as f32 }, inputs).unwrap_or_else(|| gpu_kernels::rms_norm(x, weight, eps))
}

/// `x cos + rotate_half(x) sin` of queries and keys, in the number type of the tables `[N, 1, Dh]`.
///
/// # Shapes
/// `[N, H, Dh]` and `[N, K, Dh]`, as they come.
pub(crate) fn rotate(x: [Tensor<3>; 2], cos: &Tensor<3>, sin: &Tensor<3>) -> [Tensor<3>; 2] {
    let on_host = |x: &Tensor<3>| {
        let inputs = [HostInput::new(x.clone()), HostInput::new(cos.clone()), HostInput::new(sin.clone())];
        host_function(&Rotate, inputs)
    };
    let [q, k] = x.each_ref().map(on_host);
    match (q, k) {
        (Some(q), Some(k)) => [q, k],
        _ => gpu_kernels::rotate(x, cos, sin),
    }
}

/// [`rms_norm`] of every head, then [`rotate`].
///
/// # Shapes
/// `[N, H, Dh]` and `[N, K, Dh]`, as they come.
pub(crate) fn rms_norm_rotate(
    x: [Tensor<3>; 2],
    weights: [Tensor<1>; 2],
    eps: [f64; 2],
    cos: &Tensor<3>,
    sin: &Tensor<3>,
) -> [Tensor<3>; 2] {
    if !x.iter().any(has_host_gradients) {
        return gpu_kernels::rms_norm_rotate(x, weights, eps, cos, sin);
    }
    let ([q, k], [q_weight, k_weight], [q_eps, k_eps]) = (x, weights, eps);
    rotate([rms_norm(q, q_weight, q_eps), rms_norm(k, k_weight, k_eps)], cos, sin)
}

#[derive(Debug, Clone, Copy)]
struct SiluGate;

impl HostFunction<2> for SiluGate {
    fn forward(&self, [gate, up]: [Values; 2]) -> (Vec<usize>, Vec<f32>) {
        (gate.shape.to_vec(), cpu_kernels::silu_gate(gate.values, up.values))
    }

    fn backward(&self, [gate, up]: [Values; 2], _: Values, gradient: &[f32]) -> [Vec<f32>; 2] {
        cpu_kernels::silu_gate_backward(gate.values, up.values, gradient)
    }
}

#[derive(Debug, Clone, Copy)]
struct Gelu;

impl HostFunction<1> for Gelu {
    fn forward(&self, [x]: [Values; 1]) -> (Vec<usize>, Vec<f32>) {
        let mut y = x.values.to_vec();
        cpu_kernels::gelu(&mut y);
        (x.shape.to_vec(), y)
    }

    fn backward(&self, [x]: [Values; 1], _: Values, gradient: &[f32]) -> [Vec<f32>; 1] {
        [cpu_kernels::gelu_backward(x.values, gradient)]
    }
}

impl HostFunction<2> for Gelu {
    fn forward(&self, [x, bias]: [Values; 2]) -> (Vec<usize>, Vec<f32>) {
        let mut y = biased(x, bias);
        cpu_kernels::gelu(&mut y);
        (x.shape.to_vec(), y)
    }

    fn backward(&self, [x, bias]: [Values; 2], _: Values, gradient: &[f32]) -> [Vec<f32>; 2] {
        let of_x = cpu_kernels::gelu_backward(&biased(x, bias), gradient);
        let mut of_bias = vec![0.0; bias.values.len()];
        for row in of_x.chunks_exact(of_bias.len().max(1)) {
            of_bias.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        [of_x, of_bias]
    }
}

/// Rows with a bias added to each.
fn biased(x: Values, bias: Values) -> Vec<f32> {
    let mut y = x.values.to_vec();
    for row in y.chunks_exact_mut(bias.values.len().max(1)) {
        row.iter_mut().zip(bias.values).for_each(|(y, bias)| *y += bias);
    }
    y
}

/// Softmax of the scores, with the bias as second input if there is one.
#[derive(Debug, Clone, Copy)]
struct Softmax;

impl Softmax {
    fn rows(scores: Values, bias: &[f32]) -> (Vec<usize>, Vec<f32>) {
        let width = scores.shape.last().copied().unwrap_or(1);
        (scores.shape.to_vec(), cpu_kernels::softmax_rows(scores.values, bias, width))
    }

    fn rows_backward(y: Values, gradient: &[f32]) -> Vec<f32> {
        cpu_kernels::softmax_rows_backward(y.values, gradient, y.shape.last().copied().unwrap_or(1))
    }
}

impl HostFunction<1> for Softmax {
    fn forward(&self, [scores]: [Values; 1]) -> (Vec<usize>, Vec<f32>) {
        Self::rows(scores, &[])
    }

    fn backward(&self, _: [Values; 1], y: Values, gradient: &[f32]) -> [Vec<f32>; 1] {
        [Self::rows_backward(y, gradient)]
    }
}

impl HostFunction<2> for Softmax {
    fn forward(&self, [scores, bias]: [Values; 2]) -> (Vec<usize>, Vec<f32>) {
        Self::rows(scores, bias.values)
    }

    /// The bias is a constant.
    fn backward(&self, _: [Values; 2], y: Values, gradient: &[f32]) -> [Vec<f32>; 2] {
        [Self::rows_backward(y, gradient), Vec::new()]
    }
}

#[derive(Debug, Clone, Copy)]
struct RmsNorm {
    eps: f32,
}

impl HostFunction<2> for RmsNorm {
    fn forward(&self, [x, weight]: [Values; 2]) -> (Vec<usize>, Vec<f32>) {
        (x.shape.to_vec(), cpu_kernels::rms_norm_rows(x.values, weight.values, self.eps))
    }

    fn backward(&self, [x, weight]: [Values; 2], _: Values, gradient: &[f32]) -> [Vec<f32>; 2] {
        cpu_kernels::rms_norm_rows_backward(x.values, weight.values, self.eps, gradient)
    }
}

#[derive(Debug, Clone, Copy)]
struct Rotate;

impl HostFunction<3> for Rotate {
    fn forward(&self, [x, cos, sin]: [Values; 3]) -> (Vec<usize>, Vec<f32>) {
        let width = x.shape.last().copied().unwrap_or(2);
        (x.shape.to_vec(), cpu_kernels::rotate_heads::<false>(x.values, cos.values, sin.values, width))
    }

    /// The tables are constants.
    fn backward(&self, [x, cos, sin]: [Values; 3], _: Values, gradient: &[f32]) -> [Vec<f32>; 3] {
        let width = x.shape.last().copied().unwrap_or(2);
        [cpu_kernels::rotate_heads::<true>(gradient, cos.values, sin.values, width), Vec::new(), Vec::new()]
    }
}
