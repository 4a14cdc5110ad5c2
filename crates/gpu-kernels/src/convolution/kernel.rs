//! Convolutions as products of tiles: the units of a cube bring the weights of some outputs and a stretch of the activated input into
//! shared memory, a few channels at a time, and multiply them.
//!
//! Each output is added up in an order that depends on the sizes of the weights alone: the same to the bit in steps of any length.

use burn::backend::Cube;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::{Convolution, ConvolutionKind, Snake};
use crate::launch::{MOST_CUBES, empty, floats, tensor};

/// Outputs of a unit, and steps of time.
const OF_UNIT: usize = 4;
/// Most units that share the outputs of a tile.
const MOST_GROUPS: usize = 8;
/// Most units that share the steps of a tile.
const MOST_LANES: usize = 64;
/// Most weights of an output that are in shared memory at a time, if its kernel is not wider.
const MOST_WEIGHTS: usize = 56;
/// From this number of input channels on, 8 units instead of 2 share the channels: such layers have few steps of time.
const MANY_CHANNELS: usize = 384;
/// Buffers of the kernel, its sizes and numbers included.
const BINDINGS: u32 = 11;

/// How the units of a cube share a tile. Kernels are compiled for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tile {
    /// Units that share the steps of time.
    lanes: usize,
    /// Units that share the outputs.
    groups: usize,
    /// Units that share the channels, each of which adds up its own.
    splits: usize,
    /// Channels of a unit that are in shared memory at a time.
    channels: usize,
    taps: usize,
    dilation: usize,
    activated: bool,
    added: bool,
    /// Whether weights are laid out with the inputs first.
    transposed: bool,
}

impl Tile {
    /// Only `lanes` may depend on `steps`. All else fixes the order in which an output is added up, which must not change with the length
    /// of a step.
    fn new(conv: &Shape, steps: usize, added: bool) -> Self {
        let [input, output] = conv.channels;
        let groups = output.div_ceil(OF_UNIT).next_power_of_two().min(MOST_GROUPS);
        let (splits, units) = if input >= MANY_CHANNELS { (8, 256) } else { (2, 128) };
        let staged = 1 << (MOST_WEIGHTS / conv.taps).max(1).ilog2();
        let staged = usize::clamp(staged, splits, 32);
        let most = (units / (splits * groups)).min(MOST_LANES);
        Self {
            lanes: steps.div_ceil(OF_UNIT).next_power_of_two().min(most),
            groups,
            splits,
            channels: staged / splits,
            taps: conv.taps,
            dilation: conv.dilation,
            activated: conv.activated,
            added,
            transposed: conv.stride.is_some(),
        }
    }

    fn outputs(&self) -> usize {
        self.groups * OF_UNIT
    }

    fn steps(&self) -> usize {
        self.lanes * OF_UNIT
    }

    /// Channels in shared memory at a time.
    fn staged_channels(&self) -> usize {
        self.channels * self.splits
    }

    fn units(&self) -> usize {
        self.lanes * self.groups * self.splits
    }

    /// Inputs of a channel that the steps of a tile see.
    fn window(&self) -> usize {
        self.steps() + (self.taps - 1) * self.dilation
    }

    /// Numbers of shared memory from one weight to the next of the same output: one more than there are outputs, so that neighbouring
    /// units write to different banks.
    fn pitch(&self) -> usize {
        self.outputs() + 1
    }

    fn weights(&self) -> usize {
        self.staged_channels() * self.taps
    }

    /// Bytes of shared memory.
    fn shared(&self) -> usize {
        let numbers =
            self.weights() * self.pitch() + self.staged_channels() * self.window() + self.outputs() * self.steps();
        numbers * size_of::<f32>()
    }
}

/// The sizes of a convolution. A transposed one counts as a causal one with a row of outputs for each position within the stride.
#[derive(Clone, Copy, Debug)]
struct Shape {
    channels: [usize; 2],
    taps: usize,
    dilation: usize,
    /// `None` if there is one output for each input.
    stride: Option<usize>,
    activated: bool,
}

impl Shape {
    fn new([first, second, width]: [usize; 3], kind: ConvolutionKind, activated: bool) -> Option<Self> {
        let shape = match kind {
            ConvolutionKind::Causal { dilation } => {
                Self { channels: [second, first], taps: width, dilation, stride: None, activated }
            }
            ConvolutionKind::Transposed { stride } => {
                let taps = width / stride.max(1);
                let channels = [first, second * stride];
                let fits = (1..=2).contains(&taps) && width == taps * stride;
                fits.then_some(Self { channels, taps, dilation: 1, stride: Some(stride), activated })?
            }
        };
        (shape.channels.iter().all(|count| *count > 0) && width > 0).then_some(shape)
    }
}

/// Sizes and strides of a launch.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Extent {
    /// Input channels.
    channels: usize,
    /// Rows of outputs: for a transposed convolution those of all places within the stride.
    outputs: usize,
    stride: usize,
    /// Steps that have outputs.
    steps: usize,
    /// Inputs that the first steps lack: zeros.
    lacking: usize,
    /// Inputs before this launch.
    past: usize,
    /// Inputs of this launch.
    length: usize,
    /// Last inputs that are kept.
    kept: usize,
    /// Numbers between the channels and the steps of the input.
    channel_stride: usize,
    time_stride: usize,
    /// The same of the outputs.
    output_stride: usize,
    sample_stride: usize,
}

/// The input at a place counted from the first one that the first step sees.
#[cube]
fn input<F: Float>(x: &[F], before: &[F], channel: usize, place: usize, extent: &Extent) -> f32 {
    let mut value = 0.0f32;
    if place >= extent.lacking {
        let at = place - extent.lacking;
        if at < extent.past {
            value = f32::cast_from(before[channel * extent.past + at]);
        } else if at < extent.past + extent.length {
            value = f32::cast_from(x[channel * extent.channel_stride + (at - extent.past) * extent.time_stride]);
        }
    }
    value
}

#[cube]
fn snake(x: f32, alpha: f32, beta: f32) -> f32 {
    let wave = f32::sin(x * f32::exp(alpha));
    x + wave * wave / (f32::exp(beta) + comptime!(Snake::AMPLITUDE_EPS))
}

/// The place of a weight on disk: of a row of outputs, a channel and a tap.
#[cube]
fn weight_place(row: usize, channel: usize, tap: usize, extent: &Extent, #[comptime] tile: Tile) -> usize {
    if comptime!(tile.transposed) {
        let (output, within) = (row / extent.stride, row % extent.stride);
        // The first half of a wide kernel belongs to the newer input.
        let half = comptime!(tile.taps - 1) - tap;
        (channel * (extent.outputs / extent.stride) + output) * comptime!(tile.taps) * extent.stride
            + half * extent.stride
            + within
    } else {
        (row * extent.channels + channel) * tile.taps + tap
    }
}

/// Brings the weights of a tile's outputs for the channels from `first` on into shared memory.
#[cube]
fn stage_weights<F: Float>(
    weight: &[F],
    shared: &mut Shared<[f32]>,
    first_row: usize,
    first: usize,
    extent: &Extent,
    #[comptime] tile: Tile,
) {
    let items = comptime!(tile.outputs() * tile.weights());
    #[unroll]
    for round in 0..comptime!(items.div_ceil(tile.units())) {
        let item = round * tile.units() + UNIT_POS as usize;
        if comptime!(items.is_multiple_of(tile.units())) || item < items {
            // In the order on disk, so that neighbouring units read neighbouring weights.
            let (output, at) = if comptime!(tile.transposed) {
                (item % tile.outputs(), item / tile.outputs())
            } else {
                (item / tile.weights(), item % tile.weights())
            };
            let (row, channel) = (first_row + output, first + at / tile.taps);
            let mut value = 0.0f32;
            if row < extent.outputs && channel < extent.channels {
                value = f32::cast_from(weight[weight_place(row, channel, at % tile.taps, extent, tile)]);
            }
            shared[at * tile.pitch() + output] = value;
        }
    }
}

/// Brings the activated inputs that a tile's steps see of the channels from `first` on into shared memory.
#[cube]
fn stage_inputs<F: Float>(
    x: &[F],
    before: &[F],
    alpha: &[F],
    beta: &[F],
    shared: &mut Shared<[f32]>,
    first_step: usize,
    first: usize,
    extent: &Extent,
    #[comptime] tile: Tile,
) {
    let items = comptime!(tile.staged_channels() * tile.window());
    #[unroll]
    for round in 0..comptime!(items.div_ceil(tile.units())) {
        let item = round * tile.units() + UNIT_POS as usize;
        if comptime!(items.is_multiple_of(tile.units())) || item < items {
            let channel = first + item / tile.window();
            let mut value = 0.0f32;
            if channel < extent.channels {
                value = input::<F>(x, before, channel, first_step + item % tile.window(), extent);
                if comptime!(tile.activated) {
                    value = snake(value, f32::cast_from(alpha[channel]), f32::cast_from(beta[channel]));
                }
            }
            shared[item] = value;
        }
    }
}

/// Adds the products of this unit's channels in shared memory to its sums.
#[cube]
fn multiply(
    weights: &Shared<[f32]>,
    inputs: &Shared<[f32]>,
    sums: &mut Array<f32>,
    lane: usize,
    group: usize,
    split: usize,
    #[comptime] tile: Tile,
) {
    let mut rows = Array::<f32>::new(OF_UNIT);
    #[unroll]
    for at in 0..tile.channels {
        let channel = split * tile.channels + at;
        #[unroll]
        for tap in 0..tile.taps {
            #[unroll]
            for i in 0..comptime!(OF_UNIT) {
                rows[i] = weights[(channel * tile.taps + tap) * tile.pitch() + group * comptime!(OF_UNIT) + i];
            }
            #[unroll]
            for j in 0..comptime!(OF_UNIT) {
                let step = lane + comptime!(j * tile.lanes + tap * tile.dilation);
                let value = inputs[channel * tile.window() + step];
                #[unroll]
                for i in 0..comptime!(OF_UNIT) {
                    // An explicit `fma`: if the compiler chose, tiles of another size might round differently.
                    let sum = comptime!(i * OF_UNIT + j);
                    sums[sum] = fma(rows[i], value, sums[sum]);
                }
            }
        }
    }
}

/// Adds the sums of all units that share the channels to those of the first, one after another.
#[cube]
fn gather(
    parts: &mut Shared<[f32]>,
    sums: &mut Array<f32>,
    lane: usize,
    group: usize,
    split: usize,
    #[comptime] tile: Tile,
) {
    let begin = (group * tile.lanes + lane) * comptime!(OF_UNIT * OF_UNIT);
    #[unroll]
    for giver in 1..tile.splits {
        if split == giver {
            #[unroll]
            for i in 0..comptime!(OF_UNIT * OF_UNIT) {
                parts[begin + i] = sums[i];
            }
        }
        sync_cube();
        if split == 0 {
            #[unroll]
            for i in 0..comptime!(OF_UNIT * OF_UNIT) {
                sums[i] += parts[begin + i];
            }
        }
        sync_cube();
    }
}

/// Writes the last inputs, shared among all units of all cubes.
#[cube]
fn keep<F: Float>(x: &[F], before: &[F], kept: &mut [F], extent: &Extent) {
    let count = extent.channels * extent.kept;
    let from = extent.lacking + extent.past + extent.length - extent.kept;
    let all = CUBE_COUNT * CUBE_DIM as usize;
    for round in 0..count.div_ceil(all) {
        let item = round * all + ABSOLUTE_POS;
        if item < count {
            let (channel, at) = (item / extent.kept, item % extent.kept);
            kept[item] = F::cast_from(input::<F>(x, before, channel, from + at, extent));
        }
    }
}

/// A cube per tile of outputs and steps.
#[cube(launch)]
fn convolved<F: Float>(
    x: &[F],
    before: &[F],
    weight: &[F],
    bias: &[F],
    alpha: &[F],
    beta: &[F],
    residual: &[F],
    out: &mut [F],
    kept: &mut [F],
    extent: Extent,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: ElemType,
) {
    keep::<F>(x, before, kept, &extent);
    let (unit, lanes, groups) = (UNIT_POS as usize, tile.lanes, tile.groups);
    let (lane, group, split) = (unit % lanes, unit / lanes % groups, unit / comptime!(lanes * groups));
    let first_row = CUBE_POS_X as usize * tile.outputs();
    let first_step = CUBE_POS_Y as usize * tile.steps();
    let mut weights = Shared::<[f32]>::new_slice(comptime!(tile.weights() * tile.pitch()));
    let mut inputs = Shared::<[f32]>::new_slice(comptime!(tile.staged_channels() * tile.window()));
    let mut parts = Shared::<[f32]>::new_slice(comptime!(tile.outputs() * tile.steps()));
    let mut sums = Array::<f32>::new(comptime!(OF_UNIT * OF_UNIT));
    #[unroll]
    for i in 0..comptime!(OF_UNIT * OF_UNIT) {
        sums[i] = 0.0f32;
    }
    for turn in 0..extent.channels.div_ceil(tile.staged_channels()) {
        let first = turn * tile.staged_channels();
        stage_weights::<F>(weight, &mut weights, first_row, first, &extent, tile);
        stage_inputs::<F>(x, before, alpha, beta, &mut inputs, first_step, first, &extent, tile);
        sync_cube();
        multiply(&weights, &inputs, &mut sums, lane, group, split, tile);
        sync_cube();
    }
    gather(&mut parts, &mut sums, lane, group, split, tile);
    #[unroll]
    for i in 0..comptime!(OF_UNIT) {
        let row = first_row + group * comptime!(OF_UNIT) + i;
        #[unroll]
        for j in 0..comptime!(OF_UNIT) {
            let step = first_step + lane + comptime!(j * lanes);
            if split == 0 && row < extent.outputs && step < extent.steps {
                let (output, sample) = (row / extent.stride, step * extent.stride + row % extent.stride);
                let at = output * extent.output_stride + sample * extent.sample_stride;
                let mut y = sums[comptime!(i * OF_UNIT + j)] + f32::cast_from(bias[output]);
                if comptime!(tile.added) {
                    y += f32::cast_from(residual[at]);
                }
                out[at] = F::cast_from(y);
            }
        }
    }
}

/// A signal `[1, C, T]` where it lies, and the numbers between its channels and its steps.
fn strided(x: &Tensor<3>) -> Option<(CubeTensor, [usize; 2])> {
    let x = x.clone().try_into_primitive::<Cube>().ok()?;
    let strides = [x.meta.strides()[1], x.meta.strides()[2]];
    Some((x, strides))
}

/// Whether all tensors have the input's type and the sizes that belong to it.
fn fits(conv: &Convolution, shape: &Shape, x: &Tensor<3>, past: Option<&Tensor<3>>) -> bool {
    let ([input, rows], dtype) = (shape.channels, x.dtype());
    let vector = |x: &Tensor<1>, width: usize| x.dims() == [width] && x.dtype() == dtype;
    let snakes = conv.snake.iter().all(|Snake { alpha, beta }| vector(alpha, input) && vector(beta, input));
    let past = past.is_none_or(|past| past.dims() == [1, input, conv.past()] && past.dtype() == dtype);
    let [batch, channels, _] = x.dims();
    let weights = conv.weight.dtype() == dtype && vector(&conv.bias, rows / shape.stride.unwrap_or(1));
    batch == 1 && channels == input && weights && snakes && past
}

/// Whether a cube of the device has the units and the memory of a tile.
fn fits_device(client: &Client, tile: &Tile) -> bool {
    let hardware = &client.properties().hardware;
    hardware.max_bindings >= BINDINGS
        && hardware.max_units_per_cube as usize >= tile.units()
        && hardware.max_shared_memory_size >= tile.shared()
}

/// Where outputs lie: channel by channel, or step by step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Channels,
    Steps,
}

/// The numbers of inputs and outputs of a launch.
#[derive(Clone, Copy)]
struct Counts {
    /// Inputs of this launch, those before it, and how many of those the outputs need.
    length: usize,
    held: usize,
    needed: usize,
    /// Steps that have outputs, and inputs that the first of them lack.
    steps: usize,
    lacking: usize,
    /// Output channels, and outputs of each.
    outputs: usize,
    samples: usize,
}

impl Counts {
    /// `None` if there are no outputs.
    fn new(conv: &Convolution, shape: &Shape, length: usize, held: usize) -> Option<Self> {
        let (needed, stride) = (conv.past(), shape.stride.unwrap_or(1));
        // What a causal convolution lacks at the beginning are zeros; a transposed one has fewer outputs there.
        let (steps, lacking) = match shape.stride {
            None => (length, needed - held),
            Some(_) => ((length + held).checked_sub(needed)?, 0),
        };
        let (outputs, samples) = (shape.channels[1] / stride, steps * stride);
        (steps > 0).then_some(Self { length, held, needed, steps, lacking, outputs, samples })
    }
}

pub(super) fn convolve(
    conv: &Convolution,
    x: &Tensor<3>,
    past: Option<&Tensor<3>>,
    residual: Option<&Tensor<3>>,
    keeps: bool,
) -> Option<(Tensor<3>, Option<Tensor<3>>)> {
    launch(conv, x, past, residual, keeps, Layout::Channels)
}

pub(super) fn upsample(x: &Tensor<2>, weight: &Tensor<3>, bias: &Tensor<1>) -> Option<Tensor<2>> {
    let kind = ConvolutionKind::Transposed { stride: weight.dims()[2] };
    let conv = Convolution { weight: weight.clone(), bias: bias.clone(), kind, snake: None };
    let x = x.clone().transpose().unsqueeze::<3>(); // [1, C, N]
    let (y, _) = launch(&conv, &x, None, None, false, Layout::Steps)?;
    Some(y.squeeze_dim::<2>(0))
}

/// The outputs, `[1, out, samples]` or `[1, samples, out]`, and the inputs that are kept.
fn launch(
    conv: &Convolution,
    x: &Tensor<3>,
    past: Option<&Tensor<3>>,
    residual: Option<&Tensor<3>>,
    keeps: bool,
    layout: Layout,
) -> Option<(Tensor<3>, Option<Tensor<3>>)> {
    let shape = Shape::new(conv.weight.dims(), conv.kind, conv.snake.is_some())?;
    if !fits(conv, &shape, x, past) {
        return None;
    }
    let counts = Counts::new(conv, &shape, x.dims()[2], past.map_or(0, |past| past.dims()[2]))?;
    let Counts { outputs, samples, needed, .. } = counts;
    let like_output = |y: &Tensor<3>| y.dims() == [1, outputs, samples] && y.dtype() == x.dtype();
    if !residual.is_none_or(like_output) {
        return None;
    }
    let (x, strides) = strided(x)?;
    let (client, dtype, [input, rows]) = (x.client.clone(), x.dtype, shape.channels);
    let tile = Tile::new(&shape, counts.steps, residual.is_some());
    let cubes = [rows.div_ceil(tile.outputs()), counts.steps.div_ceil(tile.steps())];
    if cubes.iter().any(|cubes| *cubes > MOST_CUBES) || !fits_device(&client, &tile) {
        return None;
    }
    let (dims, output_strides) = match layout {
        Layout::Channels => ([1, outputs, samples], [samples, 1]),
        Layout::Steps => ([1, samples, outputs], [1, outputs]),
    };
    let out = empty(&x, dims, dtype);
    let kept = (keeps && needed > 0).then(|| empty(&x, [1, input, needed], dtype));
    // Every buffer must be bound; what stands in for one that is absent is neither read nor written.
    let before = past.map_or(Some(x.clone()), floats)?;
    let residual = residual.map_or(Some(x.clone()), floats)?;
    let (weight, bias) = (floats(&conv.weight)?, floats(&conv.bias)?);
    let [alpha, beta] = match &conv.snake {
        Some(Snake { alpha, beta }) => [floats(alpha)?, floats(beta)?],
        None => [bias.clone(), bias.clone()],
    };
    convolved::launch(
        &client,
        CubeCount::Static(cubes[0] as u32, cubes[1] as u32, 1),
        CubeDim::new_1d(tile.units() as u32),
        x.into_buffer_arg(),
        before.into_buffer_arg(),
        weight.into_buffer_arg(),
        bias.into_buffer_arg(),
        alpha.into_buffer_arg(),
        beta.into_buffer_arg(),
        residual.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        kept.clone().unwrap_or_else(|| out.clone()).into_buffer_arg(),
        ExtentLaunch::new(
            input,
            rows,
            shape.stride.unwrap_or(1),
            counts.steps,
            counts.lacking,
            counts.held,
            counts.length,
            if kept.is_some() { needed } else { 0 },
            strides[0],
            strides[1],
            output_strides[0],
            output_strides[1],
        ),
        tile,
        dtype_to_storage_type(dtype),
    );
    Some((tensor(out), kept.map(tensor)))
}
