//! Attention and its cache.

use burn::tensor::{Device, Tensor};
use gpu_kernels::{CachedRun, PreNorm, Windows, reference};
use proptest::prelude::*;
use qwen3_omni_gpu_kernels as gpu_kernels;

use crate::{agree, floats, gpu, tables, values};

type DecodeAttention = fn(
    [Tensor<2>; 3],
    Option<&[PreNorm; 2]>,
    [&Tensor<3>; 2],
    Vec<CachedRun>,
    Option<usize>,
) -> (Tensor<2>, Vec<[Tensor<4>; 2]>);

/// A step of attention by one kernel for rotation, one for the cache and one for the rest, each run alone.
fn separately(
    qkv: [Tensor<2>; 3],
    norms: Option<&[PreNorm; 2]>,
    [cos, sin]: [&Tensor<3>; 2],
    runs: Vec<CachedRun>,
    window: Option<usize>,
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
        (gpu_kernels::attend(q, store.clone().map(|x| x.narrow(2, 0, held + rows)), window), store)
    });
    let (outputs, stores): (Vec<_>, Vec<_>) = each.collect::<Vec<_>>().into_iter().unzip();
    (Tensor::cat(outputs, 0), stores)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

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
    fn windows_of_an_encoder(
        windows in prop::collection::vec(prop_oneof![0usize..5, 30usize..70, 100usize..150], 1..5),
        heads in 1usize..5,
        half in prop_oneof![1usize..40, (1usize..20).prop_map(|loads| 4 * loads)],
        rotates: bool,
        seed in 0u64..1000,
    ) {
        let (rows, width) = (windows.iter().sum::<usize>().max(1), 2 * half);
        let windows = if windows.iter().sum::<usize>() == 0 { vec![1] } else { windows };
        type Attention = fn(Tensor<2>, Tensor<1>, usize, Option<[&Tensor<3>; 2]>, &Windows) -> Tensor<2>;
        let run = |device: &Device, attend: Attention| {
            let all = 3 * heads * width;
            let [cos, sin] = tables(rows, width, seed, device);
            let tables = rotates.then_some([&cos, &sin]);
            let (qkv, bias) = (floats([rows, all], seed, device), floats([all], seed + 1, device));
            attend(qkv, bias, heads, tables, &Windows::new(&windows, device))
        };
        agree(|device| run(device, gpu_kernels::window_attention), |device| run(device, reference::window_attention));
    }

    #[test]
    fn decode_steps(
        runs in prop::collection::vec((1usize..9, 0usize..300, 0usize..20), 1..4),
        heads in [1usize..4, 1..4],
        half in prop_oneof![1usize..70, (1usize..33).prop_map(|loads| 4 * loads)],
        window in prop::option::of(1usize..200),
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
            let (y, stores) = compute(qkv, norms.as_ref(), [&cos, &sin], cached.collect(), window);
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
