//! Products with matrices and experts, packed or not.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use gpu_kernels::{
    BiasActivation, Convolution, ConvolutionKind, LayerNormWeights, Matrices, Packed, PackedMatrices, PreNorm, Snake,
    Windows, reference,
};
use proptest::prelude::*;
use qwen3_omni_gpu_kernels as gpu_kernels;
use testkit::{distance, noise};

use crate::{agree, cpu, floats, gpu, tables, values};

/// How a matrix is packed.
#[derive(Debug, Clone, Copy)]
struct Form {
    bits: usize,
    groups: usize,
    /// Words of a group.
    group: usize,
    zeros: bool,
}

impl Form {
    fn input(&self) -> usize {
        self.groups * self.group * 32 / self.bits
    }

    /// Words, scales that keep products of the size of their inputs, and zeros.
    fn random(&self, outputs: usize, seed: u64, device: &Device) -> (Tensor<2, Int>, Tensor<2>, Option<Tensor<2>>) {
        let Form { bits, groups, group, zeros } = *self;
        let words =
            noise(outputs * groups * group, seed + 11).into_iter().map(|x| (x.to_bits() ^ (x.to_bits() << 13)) as i32);
        let words = TensorData::new(words.collect::<Vec<i32>>(), [outputs, groups * group]);
        let size = 1.0 / ((1u32 << (bits - 1)) as f32 * (self.input() as f32).sqrt());
        let scales = floats([outputs, groups], seed + 12, device) * size;
        let zeros = zeros.then(|| floats([outputs, groups], seed + 13, device).abs().int().float() + 1.0);
        (Tensor::from_data(words, (device, DType::I32)), scales, zeros)
    }
}

/// Products with three matrices, the gate of the first and the last, and the product with the first and what it normalised.
fn behind_norm(x: Tensor<2>, norm: Option<&PreNorm>, all: [Packed; 4], kernel: bool) -> Vec<Tensor<2>> {
    let [a, b, c, d] = &all;
    if kernel {
        let ([p, q, r], [first], normed) = match norm {
            Some(norm) => {
                let (first, normed) = gpu_kernels::norm_linear_packed(x.clone(), norm, [a]);
                (gpu_kernels::norm_linear_packed(x.clone(), norm, [a, b, c]).0, first, normed.unwrap())
            }
            None => (
                gpu_kernels::linear_packed(x.clone(), [a, b, c]),
                gpu_kernels::linear_packed(x.clone(), [a]),
                x.clone(),
            ),
        };
        return vec![p, q, r, gpu_kernels::linear_gate_packed(x, norm, a, d), first, normed];
    }
    let x = norm.map_or_else(|| x.clone(), |norm| norm.apply_plain(x.clone()));
    let [p, q, r, s] = all.map(|matrix| x.clone().matmul(matrix.numbers().transpose()));
    vec![p.clone(), q, r, reference::silu_gate(p.clone(), s), p, x]
}

fn forms() -> impl Strategy<Value = Form> {
    (prop_oneof![Just(4), Just(8)], 1usize..6, 1usize..9, any::<bool>()).prop_map(|(bits, groups, group, zeros)| Form {
        bits,
        groups,
        group,
        zeros,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn products(rows in 1usize..10, sizes in [1usize..400, 1..90, 1..90, 1..90], seed in 0u64..1000) {
        let [width, a, b, c] = sizes;
        let x = |device: &Device| floats([rows, width], seed, device);
        let matrix = |outputs, seed, device: &Device| floats([outputs, width], seed, device) * (width as f32).powf(-0.5);
        let three = |device: &Device| [(a, 1), (b, 2), (c, 3)].map(|(outputs, at)| matrix(outputs, seed + at, device));
        for at in 0..3 {
            agree(
                |device| gpu_kernels::linear(x(device), three(device))[at].clone(),
                |device| reference::linear(x(device), three(device))[at].clone(),
            );
        }
        for scaled in [false, true] {
            let residual = |device: &Device| floats([rows, a], seed + 4, device);
            let scale = |device: &Device| scaled.then(|| floats([a], seed + 5, device));
            agree(
                |device| gpu_kernels::add_linear(residual(device), x(device), matrix(a, 1, device), scale(device)),
                |device| reference::add_linear(residual(device), x(device), matrix(a, 1, device), scale(device)),
            );
        }
        agree(
            |device| gpu_kernels::linear_gate(x(device), matrix(a, 1, device), matrix(a, 2, device)),
            |device| reference::linear_gate(x(device), matrix(a, 1, device), matrix(a, 2, device)),
        );
    }

    #[test]
    fn products_after_a_norm(
        rows in 1usize..9,
        // More loads than the cubes of products have units, too.
        width in prop_oneof![1usize..100, (1usize..300).prop_map(|loads| 4 * loads)],
        sizes in [1usize..90, 1..90, 1..90],
        seed in 0u64..1000,
    ) {
        let [a, b, c] = sizes;
        let x = |device: &Device| floats([rows, width], seed, device) * 3.0;
        let norm = |device: &Device| PreNorm { weight: floats([width], seed + 4, device), eps: 1e-6 };
        let three = |device: &Device| {
            [(a, 1), (b, 2), (c, 3)].map(|(outputs, at)| {
                floats([outputs, width], seed + at, device) * (width as f32).powf(-0.5)
            })
        };
        agree(
            |device| Tensor::cat(gpu_kernels::norm_linear(x(device), &norm(device), three(device)).0.into(), 1),
            |device| Tensor::cat(reference::norm_linear(x(device), &norm(device), three(device)).into(), 1),
        );
        // To the bit what the norm and then the product compute.
        let device = gpu();
        let (x, norm, matrices) = (x(&device), norm(&device), three(&device));
        let normed = norm.apply(x.clone());
        let after = gpu_kernels::linear(normed.clone(), matrices.clone());
        let (within, _) = gpu_kernels::norm_linear(x.clone(), &norm, matrices.clone());
        prop_assert_eq!(after.each_ref().map(values), within.each_ref().map(values));
        let [first, second, _] = matrices;
        let ([within], kept) = gpu_kernels::norm_linear(x.clone(), &norm, [first.clone()]);
        prop_assert_eq!(values(&after[0]), values(&within));
        prop_assert_eq!(values(&normed), values(&kept.unwrap()));
        let rows = a.min(b);
        let [gate, up] = [first, second].map(|matrix| matrix.narrow(0, 0, rows));
        let after = gpu_kernels::linear_gate(normed, gate.clone(), up.clone());
        prop_assert_eq!(values(&after), values(&gpu_kernels::norm_linear_gate(x, &norm, gate, up)));
    }

    #[test]
    fn packed_products(rows in prop_oneof![1usize..10, 9usize..80], outputs in 1usize..140, form in forms(), seed in 0u64..1000) {
        let x = |device: &Device| floats([rows, form.input()], seed, device);
        let residual = |device: &Device| floats([rows, outputs], seed + 1, device);
        let run = |device: &Device, kernel: bool| {
            let (words, scales, zeros) = form.random(outputs, seed, device);
            let matrix = Packed { bits: form.bits, words: &words, scales: &scales, zeros: zeros.as_ref() };
            match kernel {
                true => {
                    let [y] = gpu_kernels::linear_packed(x(device), [&matrix]);
                    gpu_kernels::add_linear_packed(residual(device) + y, x(device), &matrix)
                }
                false => residual(device) + x(device).matmul(matrix.numbers().transpose()) * 2.0,
            }
        };
        agree(|device| run(device, true), |device| run(device, false));
    }

    /// Three matrices at once, not always packed alike, and gates, behind a norm or not.
    #[test]
    fn packed_products_behind_a_norm(
        rows in prop_oneof![1usize..9, 9usize..20], outputs in [1usize..70, 1..70, 1..70], form in forms(), alike: bool,
        normed: bool, seed in 0u64..1000,
    ) {
        let last = Form { zeros: form.zeros == alike, ..form };
        let run = |device: &Device, kernel: bool| {
            let forms = [(form, outputs[0]), (form, outputs[1]), (last, outputs[2]), (form, outputs[0])];
            let parts = [0, 1, 2, 3].map(|at| forms[at].0.random(forms[at].1, seed + 20 * at as u64, device));
            let all = parts.each_ref().map(|(words, scales, zeros)| {
                Packed { bits: form.bits, words, scales, zeros: zeros.as_ref() }
            });
            let norm = normed.then(|| PreNorm { weight: floats([form.input()], seed + 9, device), eps: 1e-3 });
            let x = floats([rows, form.input()], seed, device) * 3.0;
            Tensor::cat(behind_norm(x, norm.as_ref(), all, kernel), 1)
        };
        agree(|device| run(device, true), |device| run(device, false));
    }

    #[test]
    fn expert_sums(rows in 1usize..6, sizes in [1usize..9, 1..80, 1..80], top_k in 1usize..5, seed in 0u64..1000) {
        let [experts, inner, width] = sizes;
        let top_k = top_k.min(experts);
        let run = |device: &Device, kernel: bool| {
            let [residual, x] = [0, 1].map(|at| floats([rows, width], seed + at, device));
            let (weights, index) = gpu_kernels::route(floats([rows, experts], seed + 2, device), top_k, true);
            let gate_up = floats([experts, 2 * inner, width], seed + 3, device) * (width as f32).powf(-0.5);
            let down = floats([experts, width, inner], seed + 4, device) * (inner as f32).powf(-0.5);
            let compute = if kernel { gpu_kernels::experts } else { reference::experts };
            compute(residual, x, index, weights, Matrices { gate_up: &gate_up, down: &down })
        };
        agree(|device| run(device, true), |device| run(device, false));
    }

    #[test]
    fn sums_of_sorted_experts(
        rows in 1usize..90,
        experts in prop_oneof![1usize..9, 30usize..80],
        sizes in [1usize..100, 1..100],
        top_k in 1usize..9,
        seed in 0u64..1000,
    ) {
        let [inner, width] = sizes;
        let top_k = top_k.min(experts);
        let run = |device: &Device, kernel: bool| {
            let [residual, x] = [0, 1].map(|at| floats([rows, width], seed + at, device));
            let (weights, index) = gpu_kernels::route(floats([rows, experts], seed + 2, device), top_k, true);
            let gate_up = floats([experts, 2 * inner, width], seed + 3, device) * (width as f32).powf(-0.5);
            let down = floats([experts, width, inner], seed + 4, device) * (inner as f32).powf(-0.5);
            let matrices = Matrices { gate_up: &gate_up, down: &down };
            match kernel {
                true => gpu_kernels::experts_grouped(&residual, &x, &index, &weights, matrices).expect("a kernel"),
                false => reference::experts(residual, x, index, weights, matrices),
            }
        };
        agree(|device| run(device, true), |device| run(device, false));
    }

    #[test]
    fn sums_of_packed_experts(
        rows in prop_oneof![1usize..6, 6usize..60],
        experts in 1usize..7,
        top_k in 1usize..4,
        forms in [forms(), forms()],
        grouped: bool,
        seed in 0u64..1000,
    ) {
        // The outputs of one matrix are the inputs of the other.
        let [into, back] = forms;
        let (width, inner, top_k) = (into.input(), back.input(), top_k.min(experts));
        let run = |device: &Device, kernel: bool| {
            let [residual, x] = [0, 1].map(|at| floats([rows, width], seed + at, device));
            let (weights, index) = gpu_kernels::route(floats([rows, experts], seed + 2, device), top_k, true);
            let (words, scales, zeros) = into.random(experts * 2 * inner, seed, device);
            let gate_up = Packed { bits: into.bits, words: &words, scales: &scales, zeros: zeros.as_ref() };
            let (words, scales, zeros) = back.random(experts * width, seed + 5, device);
            let down = Packed { bits: back.bits, words: &words, scales: &scales, zeros: zeros.as_ref() };
            if kernel {
                let matrices = PackedMatrices { gate_up, down };
                let compute =
                    if grouped { gpu_kernels::experts_grouped_packed } else { gpu_kernels::experts_packed };
                return compute(&residual, &x, &index, &weights, &matrices).expect("a kernel");
            }
            let gate_up = gate_up.numbers().reshape([experts, 2 * inner, width]);
            let down = down.numbers().reshape([experts, width, inner]);
            reference::experts(residual, x, index, weights, Matrices { gate_up: &gate_up, down: &down })
        };
        agree(|device| run(device, true), |device| run(device, false));
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    let device = gpu();
    let [experts, inner, width, rows] = [6, 40, 96, 7];
    let [residual, x] = [0, 1].map(|seed| floats([rows, width], seed, &device));
    let gate_up = floats([experts, 2 * inner, width], 3, &device);
    let down = floats([experts, width, inner], 4, &device);
    let [weight, matrix] = [floats([1, width], 5, &device), floats([64, width], 6, &device)];
    let weight = weight.squeeze_dim::<1>(0);
    let run = |residual: Tensor<2>, x: Tensor<2>| {
        let x = gpu_kernels::rms_norm(x, weight.clone(), 1e-6);
        let (weights, index) = gpu_kernels::route(x.clone().narrow(1, 0, experts), 3, true);
        let y = gpu_kernels::experts(residual, x, index, weights, Matrices { gate_up: &gate_up, down: &down });
        let [z] = gpu_kernels::linear(y.clone(), [matrix.clone()]);
        values(&Tensor::cat(vec![y, z], 1))
    };
    let columns = width + 64;
    let together = run(residual.clone(), x.clone());
    for row in 0..rows {
        let alone = run(residual.clone().narrow(0, row, 1), x.clone().narrow(0, row, 1));
        assert_eq!(alone, together[row * columns..(row + 1) * columns], "row {row}");
    }
}

#[test]
fn a_row_of_sorted_experts_is_the_same_in_any_company() {
    let device = gpu();
    // Alone in tiles of 16 pairs, together in tiles of 32, one of whose experts has few.
    let [experts, inner, width, rows] = [6, 40, 96, 70];
    let [residual, x] = [0, 1].map(|seed| floats([rows, width], seed, &device));
    let gate_up = floats([experts, 2 * inner, width], 3, &device);
    let down = floats([experts, width, inner], 4, &device);
    let run = |residual: Tensor<2>, x: Tensor<2>| {
        let (weights, index) = gpu_kernels::route(x.clone().narrow(1, 0, experts), 3, true);
        let matrices = Matrices { gate_up: &gate_up, down: &down };
        values(&gpu_kernels::experts_grouped(&residual, &x, &index, &weights, matrices).expect("a kernel"))
    };
    let together = run(residual.clone(), x.clone());
    for (start, count) in [(0, 1), (33, 1), (69, 1), (11, 20)] {
        let part = run(residual.clone().narrow(0, start, count), x.clone().narrow(0, start, count));
        assert_eq!(part, together[start * width..(start + count) * width], "{count} rows from {start}");
    }
}

#[test]
fn pairs_that_all_choose_one_expert_are_sorted() {
    // More experts than a cube has units to count them.
    let [experts, inner, width, rows] = [300, 8, 16, 300];
    for chosen in [0, 17, 299] {
        let run = |device: &Device, kernel: bool| {
            let [residual, x] = [0, 1].map(|seed| floats([rows, width], seed, device));
            let gate_up = floats([experts, 2 * inner, width], 3, device) * 0.3;
            let down = floats([experts, width, inner], 4, device) * 0.3;
            let index = Tensor::<2, Int>::full([rows, 1], chosen, (device, DType::I32));
            let (weights, matrices) = (floats([rows, 1], 5, device), Matrices { gate_up: &gate_up, down: &down });
            match kernel {
                true => gpu_kernels::experts_grouped(&residual, &x, &index, &weights, matrices).expect("a kernel"),
                false => reference::experts(residual, x, index, weights, matrices),
            }
        };
        agree(|device| run(device, true), |device| run(device, false));
    }
}

type Windowed = fn(Tensor<2>, Tensor<1>, usize, Option<[&Tensor<3>; 2]>, &Windows) -> Tensor<2>;
type Added = fn(Tensor<2>, Tensor<2>, Tensor<1>, &LayerNormWeights) -> (Tensor<2>, Tensor<2>);
type Activated = fn(Tensor<2>, Tensor<1>, BiasActivation) -> Tensor<2>;

/// Kernels round to f16 only what they read and write, plain operations each step.
#[test]
fn f16_is_no_further_from_f32_than_plain_operations_are() {
    let [experts, inner, width, rows, top_k] = [16, 96, 128, 60, 4];
    let sum = |device: &Device, dtype: DType, kernel: bool| {
        let cast = |x: Tensor<2>| x.cast(dtype);
        let [residual, x] = [0, 1].map(|seed| cast(floats([rows, width], seed, device)));
        let (weights, index) = gpu_kernels::route(floats([rows, experts], 2, device), top_k, true);
        let weights = cast(weights);
        let gate_up = (floats([experts, 2 * inner, width], 3, device) * (width as f32).powf(-0.5)).cast(dtype);
        let down = (floats([experts, width, inner], 4, device) * (inner as f32).powf(-0.5)).cast(dtype);
        let matrices = Matrices { gate_up: &gate_up, down: &down };
        match kernel {
            true => gpu_kernels::experts_grouped(&residual, &x, &index, &weights, matrices).expect("a kernel"),
            false => reference::experts(residual, x, index, weights, matrices),
        }
    };
    let attention = |device: &Device, dtype: DType, kernel: bool| {
        let q = floats([70, 8, 128], 1, device).cast(dtype);
        let cache = [2, 3].map(|seed| floats([1, 2, 200, 128], seed, device).cast(dtype));
        let compute = if kernel { gpu_kernels::attend } else { reference::attend };
        compute(q, cache, None)
    };
    let encoder = |device: &Device, dtype: DType, kernel: bool| {
        let ([rows, heads, width], windows) = ([70, 4, 72], Windows::new(&[30, 40], device));
        let matrix = |width, seed| floats([rows, width], seed, device).cast(dtype);
        let vector = |width, seed| floats([width], seed, device).cast(dtype);
        let [cos, sin] = tables(rows, width, 1, device);
        let all = heads * width;
        let norm = LayerNormWeights { weight: vector(all, 2), bias: vector(all, 3), eps: 1e-6 };
        let attend: Windowed = if kernel { gpu_kernels::window_attention } else { reference::window_attention };
        let add_norm: Added = if kernel { gpu_kernels::add_layer_norm } else { reference::add_layer_norm };
        let activate: Activated = if kernel { gpu_kernels::activate_biased } else { reference::activate_biased };
        let attended = attend(matrix(3 * all, 4), vector(3 * all, 5), heads, Some([&cos, &sin]), &windows);
        let (sum, normed) = add_norm(matrix(all, 6), attended, vector(all, 7), &norm);
        Tensor::cat(vec![sum, activate(normed, vector(all, 8), BiasActivation::GeluTanh)], 1)
    };
    let convolution = |device: &Device, dtype: DType, kernel: bool| {
        let vector = |width, seed| floats([width], seed, device).cast(dtype);
        let weight = floats([70, 48, 7], 1, device) * (48.0f32 * 7.0).powf(-0.5);
        let conv = Convolution {
            weight: weight.cast(dtype),
            bias: vector(70, 2),
            kind: ConvolutionKind::Causal { dilation: 3 },
            snake: Some(Snake { alpha: vector(48, 3), beta: vector(48, 4) }),
        };
        let convolve = if kernel { gpu_kernels::convolve } else { reference::convolve };
        convolve(&conv, floats([1, 48, 60], 5, device).cast(dtype), None, None, false).0.squeeze_dim(0)
    };
    type Run<'a> = &'a dyn Fn(&Device, DType, bool) -> Tensor<2>;
    for run in [&sum as Run, &attention, &encoder, &convolution] {
        let found = |device: Device, dtype, kernel| values(&run(&device, dtype, kernel).cast(DType::F32));
        let exact = found(cpu(), DType::F32, false);
        let [kernel, plain] = [true, false].map(|kernel| distance(&exact, &found(gpu(), DType::F16, kernel)).1);
        assert!(kernel <= 1.1 * plain, "{kernel} with kernels, {plain} without");
    }
}
