use burn::tensor::Tensor;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

use crate::tensors::joined;

/// Most attention scores of one block: a quarter of a gigabyte in f32.
const SCORES: usize = 1 << 26;

/// Full attention inside windows of rows, none across them: the encoders' attention on a device.
///
/// # Shapes
/// `q`, `k`, `v` `[N, H, Dh]`; `windows` are lengths that add up to `N`. Returns `[N, H * Dh]`.
///
/// # Panics
/// If the windows do not add up to `N`.
pub(crate) fn window_attention(qkv: [Tensor<3>; 3], windows: &[usize]) -> Tensor<2> {
    let [rows, heads, width] = qkv[0].dims();
    assert_eq!(windows.iter().sum::<usize>(), rows, "windows cover the rows");
    let [q, k, v] = qkv;
    let (mut pieces, mut start) = (Vec::new(), 0);
    // Neighbouring windows of the same length form a batch.
    for run in windows.chunk_by(|a, b| a == b) {
        let (count, length) = (run.len(), run[0]);
        if length > 0 {
            let batch = [&q, &k, &v].map(|x| {
                let x = x.clone().narrow(0, start, count * length).reshape([count, length, heads, width]);
                x.swap_dims(1, 2) // [windows, H, length, Dh]
            });
            let out = in_batch(batch); // [windows, H, length, Dh]
            pieces.push(out.swap_dims(1, 2).reshape([count * length, heads * width]));
        }
        start += count * length;
    }
    joined(pieces, 0)
}

fn in_batch([q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    let [windows, heads, length, _] = q.dims();
    let block = (SCORES / (windows * heads * length)).clamp(1, length);
    let blocks = (0..length).step_by(block).map(|start| {
        let q = q.clone().narrow(2, start, block.min(length - start));
        // burn's attention, which keeps no scores on the CPU; softmax in f32, scaled by the head width.
        attention(q, k.clone(), v.clone(), None, None, AttentionModuleOptions::default())
    });
    joined(blocks.collect(), 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn windows_do_not_see_each_other() {
        let device = Device::flex();
        let random = || Tensor::<3>::random([11, 2, 4], Distribution::Normal(0.0, 1.0), &device);
        let qkv = [random(), random(), random()];
        let together = window_attention(qkv.clone(), &[3, 3, 1, 0, 4]);
        for (start, length) in [(0, 3), (3, 3), (6, 1), (7, 4)] {
            let alone = window_attention(qkv.clone().map(|x| x.narrow(0, start, length)), &[length]);
            let error = (together.clone().narrow(0, start, length) - alone).abs().max().into_scalar::<f32>();
            assert!(error < 1e-6, "{error}");
        }
    }
}
