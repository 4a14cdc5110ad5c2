use burn::tensor::Tensor;
use burn::tensor::module::conv1d;
use burn::tensor::ops::ConvOptions;

/// The next rows of one of several streams, one below another.
#[derive(Debug, Clone)]
pub struct DepthwiseRun {
    /// `[1, C, K - 1]`: the inputs before them; `None` at the beginning of a stream.
    pub past: Option<Tensor<3>>,
    /// Number of rows, which follow those of the run before.
    pub rows: usize,
    /// Whether to return the past for the next call.
    pub keeps: bool,
}

/// Causal convolution of each channel on its own, in one launch for each run. Zeros lie before a stream.
///
/// # Shapes
/// `x` `[N, C]`, `weight` `[C, 1, K]`, `bias` `[C]` → `[N, C]`, and each run's past for its next call, `[1, C, K - 1]`, if it keeps one.
///
/// # Panics
/// If there are no runs, or one without rows.
pub fn depthwise(
    x: Tensor<2>,
    weight: Tensor<3>,
    bias: Tensor<1>,
    runs: Vec<DepthwiseRun>,
) -> (Tensor<2>, Vec<Option<Tensor<3>>>) {
    #[cfg(cube)]
    if let Some(found) = kernel::depthwise(&x, &weight, &bias, &runs) {
        return found;
    }
    plain(x, weight, bias, runs)
}

/// [`depthwise`] in plain operations.
pub fn plain(
    x: Tensor<2>,
    weight: Tensor<3>,
    bias: Tensor<1>,
    runs: Vec<DepthwiseRun>,
) -> (Tensor<2>, Vec<Option<Tensor<3>>>) {
    let [channels, _, width] = weight.dims();
    let mut start = 0;
    let each = runs.into_iter().map(|DepthwiseRun { past, rows, keeps }| {
        let new = x.clone().narrow(0, start, rows).transpose().unsqueeze::<3>(); // [1, C, T]
        start += rows;
        let zeros = || Tensor::zeros([1, channels, width - 1], (&new.device(), new.dtype()));
        let seen = match width {
            1 => new,
            _ => Tensor::cat(vec![past.unwrap_or_else(zeros), new.clone()], 2),
        };
        let kept = (keeps && width > 1).then(|| seen.clone().narrow(2, rows, width - 1));
        let y = conv1d(seen, weight.clone(), Some(bias.clone()), ConvOptions::new([1], [0], [1], channels));
        (y.squeeze_dim::<2>(0).transpose(), kept)
    });
    let (outputs, kept): (Vec<_>, Vec<_>) = each.unzip();
    (Tensor::cat(outputs, 0), kept)
}

#[cfg(cube)]
mod kernel {
    use burn::backend::cubecl::dtype_to_storage_type;
    use burn::tensor::Tensor;
    use cubecl::prelude::*;

    use super::DepthwiseRun;
    use crate::launch::{empty, floats, tensor};

    /// Sizes of a run.
    #[derive(CubeType, CubeLaunch, Clone, Copy)]
    struct Extent {
        channels: usize,
        /// Rows of the runs before.
        first: usize,
        rows: usize,
        /// Inputs before the run, which are zeros if there is no past.
        held: usize,
        /// Inputs that are kept.
        kept: usize,
    }

    /// The input at a place counted from the first one that the first row sees.
    #[cube]
    fn input<F: Float>(
        x: &[F],
        past: &[F],
        channel: usize,
        place: usize,
        extent: &Extent,
        #[comptime] width: usize,
    ) -> f32 {
        let before = comptime!(width - 1);
        let mut value = 0.0f32;
        if place >= before {
            value = f32::cast_from(x[(extent.first + place - before) * extent.channels + channel]);
        } else if extent.held > 0 {
            value = f32::cast_from(past[channel * before + place]);
        }
        value
    }

    /// A unit per row and channel, and per input that is kept.
    #[cube(launch)]
    fn convolved<F: Float>(
        x: &[F],
        past: &[F],
        weight: &[F],
        bias: &[F],
        out: &mut [F],
        kept: &mut [F],
        extent: Extent,
        #[comptime] width: usize,
        #[define(F)] _dtype: ElemType,
    ) {
        let outputs = extent.rows * extent.channels;
        if ABSOLUTE_POS < outputs {
            let (row, channel) = (ABSOLUTE_POS / extent.channels, ABSOLUTE_POS % extent.channels);
            let mut sum = f32::cast_from(bias[channel]);
            #[unroll]
            for tap in 0..width {
                let value = input::<F>(x, past, channel, row + tap, &extent, width);
                sum += f32::cast_from(weight[channel * width + tap]) * value;
            }
            out[(extent.first + row) * extent.channels + channel] = F::cast_from(sum);
        } else if ABSOLUTE_POS < outputs + extent.kept {
            let (at, before) = (ABSOLUTE_POS - outputs, comptime!(past_of(width)));
            let (channel, place) = (at / before, at % before);
            kept[at] = F::cast_from(input::<F>(x, past, channel, extent.rows + place, &extent, width));
        }
    }

    /// Inputs that a row sees before its own; at least one, so that a kernel that keeps none does not divide by zero.
    fn past_of(width: usize) -> usize {
        (width - 1).max(1)
    }

    /// Whether shapes, number types and the row counts of the runs match.
    fn fits(x: &Tensor<2>, weight: &Tensor<3>, bias: &Tensor<1>, runs: &[DepthwiseRun]) -> bool {
        let ([count, channels], dtype) = (x.dims(), x.dtype());
        let [outputs, one, width] = weight.dims();
        let run = |run: &DepthwiseRun| {
            let past = run.past.as_ref();
            run.rows > 0 && past.is_none_or(|past| past.dims() == [1, channels, width - 1] && past.dtype() == dtype)
        };
        [outputs, one] == [channels, 1]
            && width > 0
            && channels > 0
            && bias.dims() == [channels]
            && [weight.dtype(), bias.dtype()] == [dtype; 2]
            && runs.iter().map(|run| run.rows).sum::<usize>() == count
            && runs.iter().all(run)
    }

    pub(super) fn depthwise(
        x: &Tensor<2>,
        weight: &Tensor<3>,
        bias: &Tensor<1>,
        runs: &[DepthwiseRun],
    ) -> Option<(Tensor<2>, Vec<Option<Tensor<3>>>)> {
        if !fits(x, weight, bias, runs) {
            return None;
        }
        let ([rows, channels], [_, _, width]) = (x.dims(), weight.dims());
        let (x, weight, bias) = (floats(x)?, floats(weight)?, floats(bias)?);
        let (client, dtype) = (x.client.clone(), x.dtype);
        let out = empty(&x, [rows, channels], dtype);
        let mut first = 0;
        let each = runs.iter().map(|DepthwiseRun { past, rows, keeps }| {
            let kept = (*keeps && width > 1).then(|| empty(&x, [1, channels, width - 1], dtype));
            let held = if past.is_some() { width - 1 } else { 0 };
            // Every buffer must be bound; what stands in for one that is absent is neither read nor written.
            let past = past.as_ref().map_or(Some(x.clone()), floats)?;
            let count = if kept.is_some() { channels * (width - 1) } else { 0 };
            let dim = CubeDim::new_1d(128.min(client.properties().hardware.max_units_per_cube));
            convolved::launch(
                &client,
                cubecl::calculate_cube_count_elemwise(&client, rows * channels + count, dim),
                dim,
                x.clone().into_buffer_arg(),
                past.into_buffer_arg(),
                weight.clone().into_buffer_arg(),
                bias.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                kept.clone().unwrap_or_else(|| out.clone()).into_buffer_arg(),
                ExtentLaunch::new(channels, first, *rows, held, count),
                width,
                dtype_to_storage_type(dtype),
            );
            first += rows;
            Some(kept.map(tensor))
        });
        let kept = each.collect::<Option<Vec<_>>>()?;
        Some((tensor(out), kept))
    }
}
