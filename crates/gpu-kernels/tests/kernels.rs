//! Every kernel computes what its body in plain operations computes on the CPU, for any sizes, and lets gradients through.
//!
//! On the device whose feature is switched on.
#![cfg(all(any(feature = "wgpu", feature = "cuda"), not(feature = "fusion")))]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use gpu_kernels::{CachedRun, Draw, Matrices, NEVER, Packed, PackedMatrices, PreNorm, reference};
use proptest::prelude::*;
use qwen3_omni_gpu_kernels as gpu_kernels;
use testkit::{distance, noise};

/// Differences, as a share of the largest value, that come from the order of sums and from the last bit of a division or exponential.
const ROUNDING: f64 = 32.0 * f32::EPSILON as f64;

fn gpu() -> Device {
    #[cfg(feature = "cuda")]
    return Device::cuda(0);
    #[cfg(not(feature = "cuda"))]
    Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
}

fn cpu() -> Device {
    Device::flex()
}

fn floats<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let values = noise(shape.iter().product(), seed);
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().try_to_vec_as().unwrap()
}

fn ids<const D: usize>(x: &Tensor<D, Int>) -> Vec<i64> {
    x.to_data().try_to_vec_as().unwrap()
}

/// Computes the same on the GPU by kernels and on the CPU by plain operations, and compares.
fn agree<const D: usize>(kernel: impl Fn(&Device) -> Tensor<D>, plain: impl Fn(&Device) -> Tensor<D>) {
    let (found, expected) = (kernel(&gpu()), plain(&cpu()));
    assert_eq!(found.dims(), expected.dims());
    let (cosine, worst) = distance(&values(&expected), &values(&found));
    assert!(worst < ROUNDING && cosine > 0.999_999, "{worst} away, cosine {cosine}");
}

/// Cosines and sines of random angles, the second half of each row repeating the first.
fn tables(rows: usize, width: usize, seed: u64, device: &Device) -> [Tensor<3>; 2] {
    let angles = noise(rows * width / 2, seed);
    let table = |f: fn(f32) -> f32| {
        let halves = angles.chunks_exact((width / 2).max(1)).flat_map(|half| [half, half].concat());
        Tensor::from_data(TensorData::new(halves.map(f).collect::<Vec<f32>>(), [rows, 1, width]), device)
    };
    [table(f32::cos), table(f32::sin)]
}

/// How a matrix is packed.
#[derive(Debug, Clone, Copy)]
struct Form {
    bits: usize,
    groups: usize,
    /// Words of a group.
    group: usize,
    zeros: bool,
}

fn forms() -> impl Strategy<Value = Form> {
    (prop_oneof![Just(4), Just(8)], 1usize..6, 1usize..9, any::<bool>()).prop_map(|(bits, groups, group, zeros)| Form {
        bits,
        groups,
        group,
        zeros,
    })
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

/// A row of few different weights, so that equal ones lie on boundaries.
fn draw_row(vocabulary: usize, seed: u64, levels: f32) -> Vec<f32> {
    noise(vocabulary, seed).into_iter().map(|x| (x * levels).round() / levels * 3.0).collect()
}

/// The interval of 0..1 that ends in each id, by the plain rule in f64.
fn intervals(row: &[f32], options: &Draw) -> Vec<f64> {
    let scores: Tensor<2> = Tensor::from_data(TensorData::new(row.to_vec(), [1, row.len()]), &cpu());
    let Draw { temperature, top_k, top_p, min_p } = *options;
    let kept = gpu_kernels::top_p(gpu_kernels::top_k(gpu_kernels::soften(scores, temperature), top_k), top_p);
    let kept = values(&gpu_kernels::min_p(kept, min_p));
    let greatest = f64::from(kept.iter().copied().fold(f32::MIN, f32::max));
    let weights: Vec<f64> = kept.iter().map(|x| (f64::from(*x) - greatest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights
        .iter()
        .scan(0.0, |sum, weight| {
            *sum += weight / total;
            Some(*sum)
        })
        .collect()
}

type EmbedAdd = fn(Tensor<2>, Tensor<1, Int>, Option<Tensor<2>>) -> (Tensor<2>, Tensor<2>);
type DecodeAttention =
    fn([Tensor<2>; 3], Option<&[PreNorm; 2]>, [&Tensor<3>; 2], Vec<CachedRun>) -> (Tensor<2>, Vec<[Tensor<4>; 2]>);

/// A step of attention by one kernel for rotation, one for the cache and one for the rest, each run alone.
fn separately(
    qkv: [Tensor<2>; 3],
    norms: Option<&[PreNorm; 2]>,
    [cos, sin]: [&Tensor<3>; 2],
    runs: Vec<CachedRun>,
) -> (Tensor<2>, Vec<[Tensor<4>; 2]>) {
    let (width, mut start) = (cos.dims()[2], 0);
    let each = runs.into_iter().map(|CachedRun { store, held, rows }| {
        let part = |x: &Tensor<3>| x.clone().narrow(0, start, rows);
        let [cos, sin] = [part(cos), part(sin)];
        let heads = |x: &Tensor<2>| x.clone().narrow(0, start, rows).reshape([rows as i32, -1, width as i32]);
        let both = [heads(&qkv[0]), heads(&qkv[1])];
        let [q, k] = match norms {
            Some([q, k]) => {
                let weights = [q.weight.clone(), k.weight.clone()];
                gpu_kernels::rms_norm_rotate(both, weights, [q.eps, k.eps], &cos, &sin)
            }
            None => gpu_kernels::rotate(both, &cos, &sin),
        };
        let new = [k, heads(&qkv[2])].map(|x| x.swap_dims(0, 1).unsqueeze::<4>());
        let store = gpu_kernels::write_rows(store, new, held);
        start += rows;
        (gpu_kernels::attend(q, store.clone().map(|x| x.narrow(2, 0, held + rows)), None), store)
    });
    let (outputs, stores): (Vec<_>, Vec<_>) = each.collect::<Vec<_>>().into_iter().unzip();
    (Tensor::cat(outputs, 0), stores)
}

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
    fn routes(rows in 1usize..9, experts in 1usize..300, top_k in 1usize..9, normalise: bool, seed in 0u64..1000) {
        let top_k = top_k.min(experts);
        let logits = |device: &Device| floats([rows, experts], seed, device) * 2.0;
        agree(
            |device| gpu_kernels::route(logits(device), top_k, normalise).0,
            |device| reference::route(logits(device), top_k, normalise).0,
        );
        let found = gpu_kernels::route(logits(&gpu()), top_k, normalise).1;
        prop_assert_eq!(ids(&found), ids(&reference::route(logits(&cpu()), top_k, normalise).1));
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
                    let y = gpu_kernels::linear_packed(x(device), &matrix);
                    gpu_kernels::add_linear_packed(residual(device) + y, x(device), &matrix)
                }
                false => residual(device) + x(device).matmul(matrix.numbers().transpose()) * 2.0,
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

    #[test]
    fn attention(
        tokens in prop_oneof![1usize..9, 9usize..100],
        past in prop_oneof![Just(0), 0usize..400],
        spare in 0usize..30,
        heads in [1usize..4, 1..6],
        width in prop_oneof![1usize..140, Just(128), Just(256)],
        window in prop_oneof![Just(None), (1usize..100).prop_map(Some)],
        seed in 0u64..1000,
    ) {
        let ([kv_heads, group], count) = (heads, past + tokens);
        let run = |device: &Device, kernel: bool| {
            let q = floats([tokens, kv_heads * group, width], seed, device);
            // A view of a cache with room.
            let cache = |seed| floats([1, kv_heads, count + spare, width], seed, device).narrow(2, 0, count);
            let compute = if kernel { gpu_kernels::attend } else { reference::attend };
            compute(q, [cache(seed + 1), cache(seed + 2)], window)
        };
        agree(|device| run(device, true), |device| run(device, false));
    }

    #[test]
    fn decode_steps(
        runs in prop::collection::vec((1usize..9, 0usize..300, 0usize..20), 1..4),
        heads in [1usize..4, 1..4],
        half in prop_oneof![1usize..70, (1usize..33).prop_map(|loads| 4 * loads)],
        normed: bool,
        seed in 0u64..1000,
    ) {
        let ([kv_heads, group], width) = (heads, 2 * half);
        let count = runs.iter().map(|(rows, ..)| rows).sum();
        let norms = |device: &Device| {
            [11, 12].map(|at| PreNorm { weight: floats([width], seed + at, device), eps: 1e-6 })
        };
        let stores = |device: &Device| {
            let each = runs.iter().enumerate().map(|(at, (rows, held, spare))| {
                [20, 40].map(|of| floats([1, kv_heads, held + rows + spare, width], seed + of + at as u64, device))
            });
            each.collect::<Vec<_>>()
        };
        let run = |device: &Device, compute: DecodeAttention| {
            let all = [kv_heads * group, kv_heads, kv_heads].map(|heads| heads * width);
            let qkv = [0, 1, 2].map(|at| floats([count, all[at]], seed + at as u64, device));
            let [cos, sin] = tables(count, width, seed, device);
            let cached = stores(device).into_iter().zip(&runs);
            let cached = cached.map(|(store, (rows, held, _))| CachedRun { store, held: *held, rows: *rows });
            let norms = normed.then(|| norms(device));
            let (y, stores) = compute(qkv, norms.as_ref(), [&cos, &sin], cached.collect());
            let stores = stores.into_iter().flatten().map(|store| store.reshape([-1]));
            Tensor::<1>::cat(std::iter::once(y.reshape([-1])).chain(stores).collect(), 0)
        };
        agree(|device| run(device, gpu_kernels::decode_attention), |device| run(device, reference::decode_attention));
        // To the bit what separate launches compute, run by run; heads whose halves are no whole loads have no kernel.
        if half.is_multiple_of(4) {
            prop_assert_eq!(values(&run(&gpu(), gpu_kernels::decode_attention)), values(&run(&gpu(), separately)));
        }
    }

    #[test]
    fn rows_of_a_cache(sizes in [1usize..4, 1..70, 1..40], tokens in 1usize..9, swapped: bool, shared: bool, seed in 0u64..1000) {
        let [heads, free, width] = sizes;
        let (capacity, start) = (free + tokens, free / 2);
        let run = |device: &Device, write: fn([Tensor<4>; 2], [Tensor<4>; 2], usize) -> [Tensor<4>; 2]| {
            let store = [0, 1].map(|at| floats([1, heads, capacity, width], seed + at, device));
            let rows = [2, 3].map(|at| match swapped {
                true => floats([1, tokens, heads, width], seed + at, device).swap_dims(1, 2),
                false => floats([1, heads, tokens, width], seed + at, device),
            });
            // Another reader of the keys must not see the new rows.
            let reader = shared.then(|| store[0].clone());
            let [keys, values] = write(store, rows, start);
            Tensor::cat([Some(keys), Some(values), reader].into_iter().flatten().collect(), 3)
        };
        agree(|device| run(device, gpu_kernels::write_rows), |device| run(device, reference::write_rows));
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

    #[test]
    fn draws(
        vocabulary in 1usize..3000,
        top_k in prop_oneof![Just(0usize), 1usize..60],
        top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.01f32..0.5],
        levels in prop_oneof![Just(4.0f32), Just(1e6)],
        uniform in 0.0f32..1.0,
        seed in 0u64..1000,
    ) {
        let options = Draw { temperature: 0.7, top_k, top_p, min_p };
        let row = draw_row(vocabulary, seed, levels);
        let scores: Tensor<2> = Tensor::from_data(TensorData::new(row.clone(), [1, vocabulary]), &gpu());
        let chosen = gpu_kernels::draw(scores, uniform, &options, None);
        prop_assert_eq!(ids(&chosen.finite), [1]);
        let (id, ends, uniform) = (ids(&chosen.id)[0] as usize, intervals(&row, &options), f64::from(uniform));
        // On a boundary rounding decides.
        let begin = if id == 0 { 0.0 } else { ends[id - 1] };
        prop_assert!(begin - 1e-5 <= uniform && uniform <= ends[id] + 1e-5, "{} is drawn from {}..{}", uniform, begin, ends[id]);
        prop_assert!(ends[id] > begin, "id {} is not kept", id);
    }

    #[test]
    fn greedy_choices(vocabulary in 1usize..3000, seed in 0u64..1000) {
        let row = draw_row(vocabulary, seed, 2.0);
        let best = (0..vocabulary).reduce(|best, at| if row[at] > row[best] { at } else { best }).unwrap();
        let scores: Tensor<2> = Tensor::from_data(TensorData::new(row, [1, vocabulary]), &gpu());
        prop_assert_eq!(ids(&gpu_kernels::greedy(scores, None).id), [best as i64]);
    }
}

#[test]
fn a_vocabulary_of_released_size_is_drawn_from() {
    let vocabulary = 152_064;
    let mut row = draw_row(vocabulary, 5, 1e6);
    row[140_000..].fill(NEVER);
    for (top_k, top_p) in [(50, 0.8), (0, 0.9), (0, 1.0)] {
        let options = Draw { temperature: 1.0, top_k, top_p, min_p: 0.0 };
        let ends = intervals(&row, &options);
        for uniform in [0.0, 0.3, 0.77, 0.999_999] {
            let scores: Tensor<2> = Tensor::from_data(TensorData::new(row.clone(), [1, vocabulary]), &gpu());
            let id = ids(&gpu_kernels::draw(scores, uniform, &options, None).id)[0] as usize;
            let begin = if id == 0 { 0.0 } else { ends[id - 1] };
            let uniform = f64::from(uniform);
            // So many weights are added up in f32.
            assert!(begin - 1e-4 <= uniform && uniform <= ends[id] + 1e-4, "{uniform}: {begin}..{}", ends[id]);
            assert!(ends[id] > begin, "id {id} is not kept");
        }
    }
}

#[test]
fn scores_that_are_not_finite_are_reported() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut row = noise(777, 3);
        row[401] = odd;
        let scores = || Tensor::<2>::from_data(TensorData::new(row.clone(), [1, 777]), &gpu());
        let options = Draw { temperature: 1.0, top_k: 5, top_p: 0.9, min_p: 0.0 };
        for chosen in [gpu_kernels::greedy(scores(), None), gpu_kernels::draw(scores(), 0.5, &options, None)] {
            assert_eq!(ids(&chosen.finite), [0], "{odd}");
            assert!((0..777).contains(&ids(&chosen.id)[0]), "{odd}");
            // Later choices do not forget it.
            let next = || Tensor::<2>::from_data(TensorData::new(noise(50, 4), [1, 50]), &gpu());
            let before = || Some(chosen.finite.clone());
            for later in [gpu_kernels::greedy(next(), before()), gpu_kernels::draw(next(), 0.5, &options, before())] {
                assert_eq!(ids(&later.finite), [0], "after {odd}");
                let fine = Some(Tensor::<1, Int>::ones([1], (&gpu(), DType::I32)));
                assert_eq!(ids(&gpu_kernels::greedy(next(), fine).finite), [1]);
            }
        }
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
fn a_query_sees_the_same_in_any_company() {
    let device = gpu();
    let [tokens, heads, kv_heads, width] = [150, 6, 2, 40];
    let q = floats([tokens, heads, width], 1, &device);
    let [keys, cached] = [2, 3].map(|seed| floats([1, kv_heads, tokens, width], seed, &device));
    for window in [None, Some(30)] {
        let run = |start: usize, end: usize| {
            let cache = [keys.clone().narrow(2, 0, end), cached.clone().narrow(2, 0, end)];
            values(&gpu_kernels::attend(q.clone().narrow(0, start, end - start), cache, window))
        };
        let together = run(0, tokens);
        for (start, end) in [(0, 9), (0, 100), (37, 55), (141, 150)] {
            let row = heads * width;
            assert_eq!(run(start, end), together[start * row..end * row], "{start}..{end}, {window:?}");
        }
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
    type Run<'a> = &'a dyn Fn(&Device, DType, bool) -> Tensor<2>;
    for run in [&sum as Run, &attention] {
        let found = |device: Device, dtype, kernel| values(&run(&device, dtype, kernel).cast(DType::F32));
        let exact = found(cpu(), DType::F32, false);
        let [kernel, plain] = [true, false].map(|kernel| distance(&exact, &found(gpu(), DType::F16, kernel)).1);
        assert!(kernel <= 1.1 * plain, "{kernel} with kernels, {plain} without");
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
