//! Each function is as many launches as its kernels are: none falls back to plain operations where it need not.
#![cfg(all(any(feature = "wgpu", feature = "cuda"), not(feature = "fusion")))]

use burn::tensor::{DType, Device, Int, Tensor};
use qwen3_omni_gpu_kernels::{
    CachedRun, Convolution, ConvolutionKind, DepthwiseRun, Draw, Matrices, Packed, PreNorm, Snake, add_biased,
    add_gated, add_linear, add_linear_packed, attend, convolve, counted, decode_attention, depthwise, draw, embed_add,
    experts, experts_grouped, greedy, linear, linear_gate, linear_gate_packed, linear_packed, norm_linear,
    norm_linear_gate, norm_linear_packed, rms_norm, rms_norm_rotate, rotate, route, silu_gate, softmax, upsample,
    write_rows,
};

fn gpu() -> Device {
    #[cfg(feature = "cuda")]
    return Device::cuda(0);
    #[cfg(not(feature = "cuda"))]
    Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
}

/// One test, because all launches of the process are counted.
#[test]
fn every_function_takes_as_many_launches_as_it_has_kernels() {
    let device = gpu();
    let [rows, matrix] = [[2, 64], [96, 64]].map(|shape| Tensor::<2>::ones(shape, &device));
    let wide = Tensor::<2>::ones([2, 96], &device);
    let heads = rows.clone().reshape([2, 2, 32]);
    let table = Tensor::<3>::ones([2, 1, 32], &device);
    let [weight, weight_of_head] = [64, 32].map(|width| Tensor::<1>::ones([width], &device));
    let weights_of_heads = || [weight_of_head.clone(), weight_of_head.clone()];
    let norm = PreNorm { weight: weight.clone(), eps: 1e-6 };
    let ids = Tensor::<1, Int>::ones([2], (&device, DType::I32));
    let scores = Tensor::<4>::ones([1, 2, 4, 50], &device);
    let bias = Tensor::<5>::ones([1, 1, 1, 2, 50], &device);
    let [gate_up, down] = [[8, 80, 64], [8, 64, 40]].map(|shape| Tensor::<3>::ones(shape, &device));
    let cache = || [0, 1].map(|_| Tensor::<4>::ones([1, 2, 9, 32], &device));
    let many = Tensor::<3>::ones([60, 4, 32], &device);
    let longer = [0, 1].map(|_| Tensor::<4>::ones([1, 2, 90, 32], &device));
    let [full, empty] = [cache(), cache()];
    let new = [0, 1].map(|_| Tensor::<4>::ones([1, 2, 2, 32], &device));
    let row = Tensor::<2>::ones([1, 500], &device);
    let options = Draw { temperature: 0.9, top_k: 50, top_p: 0.8, min_p: 0.1 };
    let logits = rows.clone().narrow(1, 0, 8) + 0.0;
    let gate = Tensor::<2>::ones([2, 1], &device);
    let (weights, index) = route(logits.clone(), 3, true);

    let launches = |work: &dyn Fn()| counted(work).1.total();
    let of = [
        ("rms_norm", launches(&|| drop(rms_norm(rows.clone(), weight.clone(), 1e-6))), 1),
        ("rotate", launches(&|| drop(rotate([heads.clone(), heads.clone()], &table, &table))), 1),
        (
            "rms_norm_rotate",
            launches(&|| {
                drop(rms_norm_rotate([heads.clone(), heads.clone()], weights_of_heads(), [1e-6; 2], &table, &table))
            }),
            1,
        ),
        ("silu_gate", launches(&|| drop(silu_gate(rows.clone(), rows.clone()))), 1),
        ("add_gated", launches(&|| drop(add_gated(rows.clone(), rows.clone(), gate.clone()))), 1),
        ("softmax", launches(&|| drop(softmax(scores.clone(), Some(&bias), DType::F32))), 1),
        ("route", launches(&|| drop(route(logits.clone(), 3, true))), 1),
        ("linear", launches(&|| drop(linear(rows.clone(), [matrix.clone(), matrix.clone(), matrix.clone()]))), 1),
        ("add_linear", launches(&|| drop(add_linear(wide.clone(), rows.clone(), matrix.clone(), None))), 1),
        ("linear_gate", launches(&|| drop(linear_gate(rows.clone(), matrix.clone(), matrix.clone()))), 1),
        ("norm_linear, one", launches(&|| drop(norm_linear(rows.clone(), &norm, [matrix.clone()]))), 1),
        (
            "norm_linear, three",
            launches(&|| drop(norm_linear(rows.clone(), &norm, [matrix.clone(), matrix.clone(), matrix.clone()]))),
            1,
        ),
        (
            "norm_linear_gate",
            launches(&|| drop(norm_linear_gate(rows.clone(), &norm, matrix.clone(), matrix.clone()))),
            1,
        ),
        ("attend", launches(&|| drop(attend(heads.clone(), full.clone(), None))), 1),
        ("greedy", launches(&|| drop(greedy(row.clone(), None))), 1),
        ("embed_add", launches(&|| drop(embed_add(matrix.clone(), ids.clone(), Some(rows.clone())))), 1),
        ("draw", launches(&|| drop(draw(row.clone(), 0.5, &options, None))), 1),
        (
            "experts",
            launches(&|| {
                let matrices = Matrices { gate_up: &gate_up, down: &down };
                drop(experts(rows.clone(), rows.clone(), index.clone(), weights.clone(), matrices));
            }),
            2,
        ),
        (
            "experts_grouped",
            launches(&|| {
                let matrices = Matrices { gate_up: &gate_up, down: &down };
                drop(experts_grouped(&rows, &rows, &index, &weights, matrices));
            }),
            4,
        ),
        ("attend of many", launches(&|| drop(attend(many.clone(), longer.clone(), Some(50)))), 1),
    ];
    for (name, found, expected) in of {
        assert_eq!(found, expected, "{name}");
    }
    let words = Tensor::<2, Int>::ones([96, 8], (&device, DType::I32));
    let scales = Tensor::<2>::ones([96, 2], &device);
    let packed = Packed { bits: 4, words: &words, scales: &scales, zeros: None };
    assert_eq!(launches(&|| drop(linear_packed(rows.clone(), [&packed]))), 1, "linear_packed");
    assert_eq!(launches(&|| drop(add_linear_packed(wide.clone(), rows.clone(), &packed))), 1, "add_linear_packed");
    let more = Tensor::<2>::ones([70, 64], &device);
    assert_eq!(launches(&|| drop(linear_packed(more.clone(), [&packed]))), 1, "linear_packed of many rows");
    let three = || drop(norm_linear_packed(rows.clone(), &norm, [&packed; 3]));
    assert_eq!(launches(&three), 1, "norm_linear_packed, three");
    assert_eq!(launches(&|| drop(norm_linear_packed(rows.clone(), &norm, [&packed]))), 1, "norm_linear_packed, one");
    let gate = || drop(linear_gate_packed(rows.clone(), Some(&norm), &packed, &packed));
    assert_eq!(launches(&gate), 1, "linear_gate_packed");
    let norms = [(); 2].map(|()| PreNorm { weight: weight_of_head.clone(), eps: 1e-6 });
    let [q, k, v] = [(); 3].map(|()| rows.clone());
    let runs = [cache(), cache()].map(|store| CachedRun { store, held: 3, rows: 1 });
    let step = || decode_attention([q, k, v], Some(&norms), [&table, &table], runs.into(), Some(3));
    assert_eq!(counted(step).1.total(), 2, "decode_attention, of two runs");
    let signal = Tensor::<3>::ones([1, 64, 9], &device);
    let conv = |width: usize, kind| Convolution {
        weight: Tensor::<3>::ones([64, 64, width], &device),
        bias: weight.clone(),
        kind,
        snake: Some(Snake { alpha: weight.clone(), beta: weight.clone() }),
    };
    let causal = conv(7, ConvolutionKind::Causal { dilation: 3 });
    let past = || Some(Tensor::<3>::ones([1, 64, 18], &device));
    assert_eq!(past().unwrap().dims()[2], causal.past());
    let transposed = conv(6, ConvolutionKind::Transposed { stride: 3 });
    let last = Some(Tensor::<3>::ones([1, 64, 1], &device));
    let [past, before] = [past(), past()];
    assert_eq!(launches(&|| drop(convolve(&causal, signal.clone(), past.clone(), Some(signal.clone()), true))), 1);
    assert_eq!(launches(&|| drop(convolve(&causal, signal.clone(), None, None, true))), 1, "a stream's first inputs");
    assert_eq!(launches(&|| drop(convolve(&transposed, signal.clone(), last.clone(), None, true))), 1, "transposed");
    let by_place = Tensor::<3>::ones([64, 40, 2], &device);
    let bias_of_outputs = Tensor::<1>::ones([40], &device);
    assert_eq!(launches(&|| drop(upsample(rows.clone(), by_place.clone(), bias_of_outputs.clone()))), 1, "upsample");
    let taps = Tensor::<3>::ones([64, 1, 19], &device);
    let run = || DepthwiseRun { past: before.clone(), rows: 1, keeps: true };
    assert_eq!(launches(&|| drop(depthwise(rows.clone(), taps.clone(), weight.clone(), vec![run(), run()]))), 2);
    assert_eq!(launches(&|| drop(add_biased(rows.clone(), rows.clone(), weight.clone(), Some(weight.clone())))), 1);
    // The cache is written in place, so only this call may hold it.
    assert_eq!(counted(|| write_rows(empty, new, 3)).1.total(), 1, "write_rows");
    // A driver that is torn down while it still works may crash.
    assert_eq!(rows.sum().into_scalar::<f32>(), 128.0);
}
