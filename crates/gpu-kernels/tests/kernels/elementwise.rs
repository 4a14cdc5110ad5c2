//! Norms, gates, rotations, softmax and embeddings; gradients.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use gpu_kernels::{BiasActivation, LayerNormWeights, reference};
use proptest::prelude::*;
use qwen3_omni_gpu_kernels as gpu_kernels;
use testkit::noise;

use crate::{agree, floats, gpu, tables, values};

type EmbedAdd = fn(Tensor<2>, Tensor<1, Int>, Option<Tensor<2>>) -> (Tensor<2>, Tensor<2>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn rms_norms(rows in 1usize..40, width in 1usize..700, seed in 0u64..1000) {
        let inputs = |device: &Device| (floats([rows, width], seed, device) * 3.0, floats([width], seed + 1, device));
        agree(
            |device| { let (x, weight) = inputs(device); gpu_kernels::rms_norm(x, weight, 1e-6) },
            |device| { let (x, weight) = inputs(device); reference::rms_norm(x, weight, 1e-6) },
        );
    }

    #[test]
    fn layer_norms(rows in 1usize..40, width in 1usize..1300, seed in 0u64..1000) {
        // Far from zero, where the difference of the mean square and the squared mean would lose the variance.
        let x = |device: &Device| floats([rows, width], seed, device) * 3.0 + 30.0;
        let norm = |device: &Device| {
            let [weight, bias] = [1, 2].map(|at| floats([width], seed + at, device));
            LayerNormWeights { weight, bias, eps: 1e-3 }
        };
        agree(
            |device| gpu_kernels::layer_norm(x(device), &norm(device)),
            |device| reference::layer_norm(x(device), &norm(device)),
        );
        type Added = fn(Tensor<2>, Tensor<2>, Tensor<1>, &LayerNormWeights) -> (Tensor<2>, Tensor<2>);
        let added = |device: &Device, add: Added| {
            let (y, bias) = (floats([rows, width], seed + 3, device), floats([width], seed + 4, device));
            let (sum, normed) = add(x(device), y, bias, &norm(device));
            Tensor::cat(vec![sum, normed], 1)
        };
        agree(|device| added(device, gpu_kernels::add_layer_norm), |device| added(device, reference::add_layer_norm));
        // To the bit what two launches compute.
        let apart = |residual, y, bias, norm: &LayerNormWeights| {
            let sum = gpu_kernels::add_biased(residual, y, bias, None);
            (sum.clone(), gpu_kernels::layer_norm(sum, norm))
        };
        prop_assert_eq!(values(&added(&gpu(), gpu_kernels::add_layer_norm)), values(&added(&gpu(), apart)));
    }

    #[test]
    fn biases(rows in 1usize..40, width in 1usize..700, by in 0.1f32..20.0, seed in 0u64..1000) {
        let x = |device: &Device| floats([rows, width], seed, device) * by;
        let bias = |device: &Device| floats([width], seed + 1, device);
        agree(
            |device| gpu_kernels::add_bias(x(device), bias(device)),
            |device| reference::add_bias(x(device), bias(device)),
        );
        let residual = |device: &Device| floats([rows, width], seed + 2, device);
        let scale = |device: &Device| floats([width], seed + 3, device);
        for scaled in [false, true] {
            let scale = |device: &Device| scaled.then(|| scale(device));
            agree(
                |device| gpu_kernels::add_biased(residual(device), x(device), bias(device), scale(device)),
                |device| reference::add_biased(residual(device), x(device), bias(device), scale(device)),
            );
        }
        for activation in [BiasActivation::Gelu, BiasActivation::GeluTanh] {
            agree(
                |device| gpu_kernels::activate_biased(x(device), bias(device), activation),
                |device| reference::activate_biased(x(device), bias(device), activation),
            );
        }
    }

    #[test]
    fn gelus(sizes in [1usize..4, 1..20, 1..20, 1..20], swapped: bool, part in prop::option::of(0usize..4), seed in 0u64..1000) {
        let x = |device: &Device| {
            let x = floats(sizes, seed, device) * 6.0;
            let x = if swapped { x.swap_dims(1, 3) } else { x };
            part.map_or(x.clone(), |axis| {
                let size = x.dims()[axis];
                x.narrow(axis, size / 2, size - size / 2)
            })
        };
        agree(|device| gpu_kernels::gelu(x(device)), |device| burn::tensor::activation::gelu(x(device)));
    }

    #[test]
    fn gates(rows in 1usize..40, width in 1usize..700, seed in 0u64..1000) {
        let inputs = |device: &Device| [20.0, 1.0].map(|by| floats([rows, width], seed + by as u64, device) * by);
        agree(
            |device| { let [gate, up] = inputs(device); gpu_kernels::silu_gate(gate, up) },
            |device| { let [gate, up] = inputs(device); reference::silu_gate(gate, up) },
        );
    }

    #[test]
    fn sums_with_a_gate(rows in 1usize..40, width in 1usize..300, by in 1f32..60.0, seed in 0u64..1000) {
        let run = |device: &Device, add: fn(Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>| {
            let [residual, y] = [0, 1].map(|at| floats([rows, width], seed + at, device));
            add(residual, y, floats([rows, 1], seed + 2, device) * by)
        };
        agree(|device| run(device, gpu_kernels::add_gated), |device| run(device, reference::add_gated));
    }

    #[test]
    fn rotations(rows in 1usize..40, heads in [1usize..9, 1..5], half in 1usize..70, seed in 0u64..1000) {
        let width = 2 * half;
        let x = |device: &Device| [0, 1].map(|at| floats([rows, heads[at], width], seed + at as u64, device));
        let joined = |x: [Tensor<3>; 2]| Tensor::cat(x.to_vec(), 1);
        agree(
            |device| { let [cos, sin] = tables(rows, width, seed, device); joined(gpu_kernels::rotate(x(device), &cos, &sin)) },
            |device| {
                let [cos, sin] = tables(rows, width, seed, device);
                joined(x(device).map(|x| reference::rotate(x, &cos, &sin)))
            },
        );
        let weights = |device: &Device| [2, 3].map(|at| floats([width], seed + at, device));
        let eps = [1e-6, 1e-2];
        agree(
            |device| {
                let [cos, sin] = tables(rows, width, seed, device);
                joined(gpu_kernels::rms_norm_rotate(x(device), weights(device), eps, &cos, &sin))
            },
            |device| {
                let ([cos, sin], [q, k]) = (tables(rows, width, seed, device), x(device));
                let [q_weight, k_weight] = weights(device);
                joined([(q, q_weight, eps[0]), (k, k_weight, eps[1])].map(|(x, weight, eps)| {
                    reference::rms_norm_rotate(x, weight, eps, &cos, &sin)
                }))
            },
        );
    }

    #[test]
    fn softmaxes(sizes in [1usize..3, 1..4, 1..4, 1..7, 1..300], masked in any::<bool>(), seed in 0u64..1000) {
        let [batch, heads, group, queries, keys] = sizes;
        let scores = |device: &Device| floats([batch, heads, group * queries, keys], seed, device) * 5.0;
        let bias = |device: &Device| masked.then(|| floats([1, 1, 1, queries, keys], seed + 1, device).sign() * 1e9);
        agree(
            |device| gpu_kernels::softmax(scores(device), bias(device).as_ref(), DType::F32),
            |device| reference::softmax(scores(device), bias(device).as_ref(), DType::F32),
        );
    }

    #[test]
    fn sums_of_embeddings(sizes in [1usize..300, 1..9, 1..200], added: bool, seed in 0u64..1000) {
        let [vocabulary, rows, width] = sizes;
        let run = |device: &Device, embed: EmbedAdd| {
            let ids = noise(rows, seed + 1).into_iter().map(|x| (x.abs() * 1e6) as i32 % vocabulary as i32);
            let ids = TensorData::new(ids.collect::<Vec<_>>(), [rows]);
            let sum = added.then(|| floats([rows, width], seed + 2, device));
            let table = floats([vocabulary, width], seed, device);
            let (found, sum) = embed(table, Tensor::from_data(ids, (device, DType::I32)), sum);
            Tensor::cat(vec![found, sum], 1)
        };
        agree(|device| run(device, gpu_kernels::embed_add), |device| run(device, reference::embed_add));
    }
}

/// A kernel has no backward pass, so tensors that track gradients must go another way.
#[test]
fn gradients_pass() {
    let device = gpu().autodiff();
    let gradient = |f: &dyn Fn(Tensor<2>) -> Tensor<2>| {
        let x = floats([3, 24], 7, &device).require_grad();
        let gradients = (f(x.clone()) * floats([3, 24], 8, &device)).sum().backward();
        x.grad(&gradients).map(|gradient| values(&gradient))
    };
    let weight = floats([24], 9, &device);
    let tables = || tables(3, 8, 1, &device);
    let rotated = |kernel: bool, x: Tensor<2>| {
        let ([cos, sin], x) = (tables(), [0, 1].map(|_| x.clone().reshape([3, 3, 8])));
        let [q, k] = match kernel {
            true => gpu_kernels::rotate(x, &cos, &sin),
            false => x.map(|x| reference::rotate(x, &cos, &sin)),
        };
        (q + k).reshape([3, 24])
    };
    type Pair<'a> = [&'a dyn Fn(Tensor<2>) -> Tensor<2>; 2];
    let pairs: [Pair; 3] = [
        [&|x| gpu_kernels::rms_norm(x, weight.clone(), 1e-6), &|x| reference::rms_norm(x, weight.clone(), 1e-6)],
        [&|x| gpu_kernels::silu_gate(x.clone(), x), &|x| reference::silu_gate(x.clone(), x)],
        [&|x| rotated(true, x), &|x| rotated(false, x)],
    ];
    for [kernel, plain] in pairs {
        let found = gradient(kernel).expect("a gradient");
        assert!(found.iter().any(|x| *x != 0.0));
        assert_eq!(found, gradient(plain).unwrap());
    }
}
