//! Convolutions over time, beside the operations of [`Engine`].

use burn::tensor::module::{conv_transpose1d, conv1d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{DType, Tensor, TensorData};
use cpu_kernels::{Conv1d, ConvStream, Snake as HostSnake};
use nn::{DeviceEngine, DeviceRows, Engine, HostEngine, HostRows};

use crate::conv::{CausalConv, Depthwise, DepthwiseWeight, TransposedConv, UpsampleConv};
use crate::history::History;
use crate::snake::Snake;
use crate::trained;

/// The engine's operations for the vocoder. Rows hold streams one below another; a signal holds them side by side along time.
pub(crate) trait VocoderEngine: Engine {
    /// Channels over time, of several streams.
    type Signal: Send;

    /// `[N, D]` → `[N * factor, D]`.
    fn upsample(&self, x: &mut Self::Rows, conv: &UpsampleConv) -> Self::Rows;
    /// Causal depthwise convolution; each stream is given by its history and its number of rows.
    fn depthwise(&self, x: &Self::Rows, conv: &Depthwise, streams: &mut [(&mut History, usize)]) -> Self::Rows;
    /// Rows `[sum T, C]` as channels over time; `whole` says that all streams end with this step.
    fn signal(&self, x: Self::Rows, times: &[usize], whole: bool) -> Self::Signal;
    /// The convolution of the activated input.
    fn conv(
        &self,
        x: &Self::Signal,
        conv: &CausalConv,
        act: Option<&Snake>,
        histories: &mut [&mut History],
    ) -> Self::Signal;
    /// `residual +` the convolution of the activated input, whose kernel is one step wide.
    fn add_conv(&self, residual: Self::Signal, x: &Self::Signal, conv: &CausalConv, act: &Snake) -> Self::Signal;
    /// The transposed convolution of the activated input, without the first stride of a stream.
    fn transposed_conv(
        &self,
        x: &Self::Signal,
        conv: &TransposedConv,
        act: &Snake,
        histories: &mut [&mut History],
    ) -> Self::Signal;
    /// The activated signal, for a probe.
    fn activated(&self, x: &Self::Signal, act: &Snake) -> Self::Signal;
    /// The first stream `[C, T]`, for a probe.
    fn signal_tensor(&self, x: &Self::Signal) -> Tensor<2>;
    /// The only channel `[T]` of each stream, unclamped.
    fn waves(&self, x: Self::Signal) -> Vec<Tensor<1>>;
    /// The only channel of each stream, between −1 and 1.
    fn samples(&self, x: Self::Signal) -> Vec<Vec<f32>>;
}

/// Channels `[C, sum T]` in host memory.
pub(crate) struct HostSignal {
    rows: HostRows,
    times: Vec<usize>,
}

/// Convolves all streams into `y`, or adds to `y` if `add` is set; returns the length of each stream's output.
fn run(
    conv: &Conv1d,
    x: &HostSignal,
    act: Option<HostSnake>,
    histories: &mut [&mut History],
    add: bool,
    y: &mut HostRows,
) -> Vec<usize> {
    let streams = histories.iter_mut().zip(&x.times);
    let mut streams: Vec<ConvStream> =
        streams.map(|(history, time)| ConvStream { history: history.host(), time: *time }).collect();
    let mut times = Vec::new();
    y.fill_with(|y| {
        times = conv.run(&mut streams, x.rows.values(), act, add, y);
        times.iter().sum()
    });
    times
}

impl VocoderEngine for HostEngine {
    type Signal = HostSignal;

    fn upsample(&self, x: &mut HostRows, conv: &UpsampleConv) -> HostRows {
        let UpsampleConv::Host(layer) = conv else {
            panic!("weights on a device were handed to the engine of host memory")
        };
        let width = layer.input();
        let [y] = self.linear(x, [layer]); // [N, factor * D]
        self.reshape(y, width)
    }

    fn depthwise(&self, x: &HostRows, conv: &Depthwise, streams: &mut [(&mut History, usize)]) -> HostRows {
        let DepthwiseWeight::Host(weight) = &conv.weight else {
            panic!("weights on a device were handed to the engine of host memory")
        };
        let ([rows, width], past) = (x.shape(), conv.taps - 1);
        let mut y = self.take(rows, width);
        let (mut x, mut out) = (x.values(), y.values_mut());
        for (history, rows) in streams {
            let history = history.host();
            history.resize(past * width, 0.0);
            let (new, others) = x.split_at(*rows * width);
            let (outputs, rest) = std::mem::take(&mut out).split_at_mut(*rows * width);
            history.extend_from_slice(new);
            for (row, y) in outputs.chunks_exact_mut(width).enumerate() {
                y.copy_from_slice(conv.bias.host());
                let seen = history[row * width..].chunks_exact(width).zip(weight.host().chunks_exact(width));
                for (x, weight) in seen {
                    y.iter_mut().zip(x).zip(weight).for_each(|((y, x), weight)| *y += x * weight);
                }
            }
            history.drain(..*rows * width);
            (x, out) = (others, rest);
        }
        y
    }

    fn signal(&self, x: HostRows, times: &[usize], _: bool) -> HostSignal {
        let [time, channels] = x.shape();
        let mut rows = self.take(channels, time);
        for (channel, row) in rows.values_mut().chunks_exact_mut(time.max(1)).enumerate() {
            let values = x.values().iter().skip(channel).step_by(channels);
            row.iter_mut().zip(values).for_each(|(y, x)| *y = *x);
        }
        HostSignal { rows, times: times.to_vec() }
    }

    fn conv(
        &self,
        x: &HostSignal,
        conv: &CausalConv,
        act: Option<&Snake>,
        histories: &mut [&mut History],
    ) -> HostSignal {
        let conv = conv.kernel.host();
        let [_, output] = conv.channels();
        let mut rows = self.take(output, x.times.iter().sum());
        let times = run(conv, x, act.map(Snake::host), histories, false, &mut rows);
        HostSignal { rows, times }
    }

    fn add_conv(&self, mut residual: HostSignal, x: &HostSignal, conv: &CausalConv, act: &Snake) -> HostSignal {
        // A kernel of one step needs no history, so streams need not be told apart.
        let mut none = vec![History::None; x.times.len()];
        let mut none: Vec<_> = none.iter_mut().collect();
        run(conv.kernel.host(), x, Some(act.host()), &mut none, true, &mut residual.rows);
        residual
    }

    fn transposed_conv(
        &self,
        x: &HostSignal,
        conv: &TransposedConv,
        act: &Snake,
        histories: &mut [&mut History],
    ) -> HostSignal {
        let (stride, conv) = (conv.stride, conv.kernel.host());
        let [_, output] = conv.channels();
        let mut rows = self.take(output, stride * x.times.iter().sum::<usize>());
        let times = run(conv, x, Some(act.host()), histories, false, &mut rows);
        HostSignal { rows, times }
    }

    fn activated(&self, x: &HostSignal, act: &Snake) -> HostSignal {
        let [channels, time] = x.rows.shape();
        let mut rows = self.take(channels, time);
        rows.values_mut().copy_from_slice(x.rows.values());
        act.host().apply(rows.values_mut());
        HostSignal { rows, times: x.times.clone() }
    }

    fn signal_tensor(&self, x: &HostSignal) -> Tensor<2> {
        let [channels, time] = x.rows.shape();
        let values = x.rows.values().chunks_exact(time.max(1)).flat_map(|row| &row[..x.times[0]]).copied();
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), [channels, x.times[0]]), self.device())
    }

    fn waves(&self, x: HostSignal) -> Vec<Tensor<1>> {
        let mut start = 0;
        let each = x.times.iter().map(|time| {
            start += time;
            Tensor::from_data(TensorData::new(x.rows.values()[start - time..start].to_vec(), [*time]), self.device())
        });
        each.collect()
    }

    fn samples(&self, x: HostSignal) -> Vec<Vec<f32>> {
        of_streams(x.rows.values(), &x.times)
    }
}

/// The samples of each stream, between −1 and 1.
fn of_streams(mut samples: &[f32], times: &[usize]) -> Vec<Vec<f32>> {
    let each = times.iter().map(|time| {
        let (these, others) = samples.split_at(*time);
        samples = others;
        these.iter().map(|sample| sample.clamp(-1.0, 1.0)).collect()
    });
    each.collect()
}

/// The activated input, if there is an activation.
fn activated(x: &Tensor<3>, act: Option<&Snake>) -> Tensor<3> {
    act.map_or_else(|| x.clone(), |act| act.on_device(x.clone()))
}

/// Causal convolution of one stream `[1, C, T]`, whose history is activated already.
fn causal(
    x: Tensor<3>,
    weight: Tensor<3>,
    bias: Tensor<1>,
    [dilation, groups]: [usize; 2],
    history: &mut History,
) -> Tensor<3> {
    let ([_, channels, _], past) = (x.dims(), (weight.dims()[2] - 1) * dilation);
    let x = match past {
        0 => x,
        _ => {
            let zeros = || Tensor::zeros([1, channels, past], (&x.device(), x.dtype()));
            let before = history.tensor().unwrap_or_else(zeros);
            let padded = Tensor::cat(vec![before, x], 2); // [1, C, past + T]
            let length = padded.dims()[2];
            history.keep(|| padded.clone().narrow(2, length - past, past));
            padded
        }
    };
    conv1d(x, weight, Some(bias), ConvOptions::new([1], [0], [dilation], groups))
}

/// Channels over time on a device.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // One at a time.
pub(crate) enum DeviceSignal {
    /// `[1, C, T]` of each stream.
    Streams(Vec<Tensor<3>>),
    /// `[C, sum T]` of whole streams, where gradients are computed in host memory.
    Joined(Tensor<2>, Vec<usize>),
}

impl DeviceSignal {
    fn count(&self) -> usize {
        match self {
            DeviceSignal::Streams(streams) => streams.len(),
            DeviceSignal::Joined(_, times) => times.len(),
        }
    }

    /// Each stream on its own.
    fn streams(&self) -> Vec<Tensor<3>> {
        match self {
            DeviceSignal::Streams(streams) => streams.clone(),
            DeviceSignal::Joined(x, times) => {
                x.clone().split_with_sizes(times.clone(), 1).into_iter().map(Tensor::unsqueeze).collect()
            }
        }
    }
}

impl VocoderEngine for DeviceEngine {
    type Signal = DeviceSignal;

    fn upsample(&self, x: &mut DeviceRows, conv: &UpsampleConv) -> DeviceRows {
        let UpsampleConv::Device(kernel) = conv else {
            panic!("weights in host memory were handed to the engine of a device")
        };
        let [input, output, factor] = kernel.weight.dims();
        let x = x.tensor();
        let rows = x.dims()[0];
        let y = x.matmul(kernel.weight.val().reshape([input, output * factor])); // [N, out * factor]
        let y = y.reshape([rows, output, factor]).swap_dims(1, 2).reshape([rows * factor, output]);
        (y + kernel.bias.val().unsqueeze()).into()
    }

    fn depthwise(&self, x: &DeviceRows, conv: &Depthwise, streams: &mut [(&mut History, usize)]) -> DeviceRows {
        let x = x.tensor();
        let DepthwiseWeight::Device(weight) = &conv.weight else {
            panic!("weights in host memory were handed to the engine of a device")
        };
        if streams.iter().all(|(history, _)| history.discards()) {
            let times: Vec<usize> = streams.iter().map(|(_, rows)| *rows).collect();
            if let Some(y) = trained::depthwise(&x, weight.val(), conv.bias.tensor(), &times) {
                return y.into();
            }
        }
        let mut start = 0;
        let each = streams.iter_mut().map(|(history, rows)| {
            let x = x.clone().narrow(0, start, *rows).transpose().unsqueeze::<3>(); // [1, C, T]
            start += *rows;
            let channels = x.dims()[1];
            let y = causal(x, weight.val(), conv.bias.tensor(), [1, channels], history);
            y.squeeze_dim::<2>(0).transpose() // [T, C]
        });
        Tensor::cat(each.collect(), 0).into()
    }

    fn signal(&self, x: DeviceRows, times: &[usize], whole: bool) -> DeviceSignal {
        let x = x.into_tensor();
        if whole && nn::has_host_gradients(&x) {
            return DeviceSignal::Joined(x.transpose(), times.to_vec());
        }
        let streams = x.split_with_sizes(times.to_vec(), 0);
        DeviceSignal::Streams(streams.into_iter().map(|x| x.transpose().unsqueeze::<3>()).collect())
    }

    fn conv(
        &self,
        x: &DeviceSignal,
        conv: &CausalConv,
        act: Option<&Snake>,
        histories: &mut [&mut History],
    ) -> DeviceSignal {
        let x = match x {
            DeviceSignal::Joined(x, times) => {
                let y = trained::causal(x, conv, act.map(Snake::device), times);
                return DeviceSignal::Joined(y, times.clone());
            }
            DeviceSignal::Streams(x) => x,
        };
        let kernel = conv.kernel.device();
        let each = x.iter().zip(histories).map(|(x, history)| {
            causal(activated(x, act), kernel.weight.val(), kernel.bias.val(), [conv.dilation, 1], history)
        });
        DeviceSignal::Streams(each.collect())
    }

    fn add_conv(&self, residual: DeviceSignal, x: &DeviceSignal, conv: &CausalConv, act: &Snake) -> DeviceSignal {
        let mut none = vec![History::Discard; x.count()];
        let y = self.conv(x, conv, Some(act), &mut none.iter_mut().collect::<Vec<_>>());
        match (residual, y) {
            (DeviceSignal::Joined(x, times), DeviceSignal::Joined(y, _)) => DeviceSignal::Joined(x + y, times),
            (x, y) => {
                let sums = x.streams().into_iter().zip(y.streams()).map(|(x, y)| x + y);
                DeviceSignal::Streams(sums.collect())
            }
        }
    }

    fn transposed_conv(
        &self,
        x: &DeviceSignal,
        conv: &TransposedConv,
        act: &Snake,
        histories: &mut [&mut History],
    ) -> DeviceSignal {
        let (kernel, stride) = (conv.kernel.device(), conv.stride);
        let overlaps = kernel.weight.dims()[2] != stride;
        let x = match x {
            DeviceSignal::Joined(x, times) => {
                let length = |time: &usize| (time - usize::from(overlaps)) * stride;
                let y = trained::transposed(x, conv, act.device(), times);
                return DeviceSignal::Joined(y, times.iter().map(length).collect());
            }
            DeviceSignal::Streams(x) => x,
        };
        let options = ConvTransposeOptions::new([stride], [0], [0], [1], 1);
        let run = |x| conv_transpose1d(x, kernel.weight.val(), Some(kernel.bias.val()), options.clone());
        let each = x.iter().zip(histories).map(|(x, history)| {
            let x = act.on_device(x.clone());
            if !overlaps {
                return run(x);
            }
            let last = x.dims()[2] - 1;
            let before = history.tensor();
            history.keep(|| x.clone().narrow(2, last, 1));
            let x = match before {
                Some(before) => Tensor::cat(vec![before, x], 2),
                None => x,
            };
            let inputs = x.dims()[2];
            run(x).narrow(2, stride, (inputs - 1) * stride)
        });
        DeviceSignal::Streams(each.collect())
    }

    fn activated(&self, x: &DeviceSignal, act: &Snake) -> DeviceSignal {
        DeviceSignal::Streams(x.streams().into_iter().map(|x| act.on_device(x)).collect())
    }

    fn signal_tensor(&self, x: &DeviceSignal) -> Tensor<2> {
        x.streams().remove(0).squeeze_dim(0)
    }

    fn waves(&self, x: DeviceSignal) -> Vec<Tensor<1>> {
        x.streams().into_iter().map(|x| x.flatten(0, 2)).collect()
    }

    fn samples(&self, x: DeviceSignal) -> Vec<Vec<f32>> {
        let streams = x.streams();
        let times: Vec<usize> = streams.iter().map(|x| x.dims()[2]).collect();
        // One read for all streams, because each read waits for the device.
        let all = nn::to_f32_vec(&Tensor::cat(streams, 2).cast(DType::F32));
        of_streams(&all, &times)
    }
}
