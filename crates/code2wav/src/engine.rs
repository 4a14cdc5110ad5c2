//! Convolutions over time, beside the operations of [`Engine`].

use burn::tensor::{DType, Tensor, TensorData};
use cpu_kernels::{Conv1d, ConvStream, Snake as HostSnake};
use gpu_kernels::{Convolution, DepthwiseRun};
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

/// Convolves the next step `[1, C, T]` of each stream; `residuals` are added where there are any.
fn convolve(
    conv: &Convolution,
    x: &[Tensor<3>],
    residuals: Option<Vec<Tensor<3>>>,
    histories: &mut [&mut History],
) -> Vec<Tensor<3>> {
    debug_assert!(residuals.as_ref().is_none_or(|residuals| residuals.len() == x.len()));
    let mut residuals = residuals.into_iter().flatten();
    let each = x.iter().zip(histories).map(|(x, history)| {
        let (y, kept) = gpu_kernels::convolve(conv, x.clone(), history.tensor(), residuals.next(), !history.discards());
        history.keep(kept);
        y
    });
    each.collect()
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
        gpu_kernels::upsample(x.tensor(), kernel.weight.val(), kernel.bias.val()).into()
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
        let run = |(history, rows): &(&mut History, usize)| DepthwiseRun {
            past: history.tensor(),
            rows: *rows,
            keeps: !history.discards(),
        };
        let runs = streams.iter().map(run).collect();
        let (y, kept) = gpu_kernels::depthwise(x, weight.val(), conv.bias.tensor(), runs);
        streams.iter_mut().zip(kept).for_each(|((history, _), kept)| history.keep(kept));
        y.into()
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
        DeviceSignal::Streams(convolve(&conv.convolution(act), x, None, histories))
    }

    fn add_conv(&self, residual: DeviceSignal, x: &DeviceSignal, conv: &CausalConv, act: &Snake) -> DeviceSignal {
        match (residual, x) {
            (DeviceSignal::Joined(residual, times), DeviceSignal::Joined(x, _)) => {
                let y = trained::causal(x, conv, Some(act.device()), &times);
                DeviceSignal::Joined(residual + y, times)
            }
            (residual, x) => {
                // A kernel of one step needs no history.
                let (x, mut none) = (x.streams(), vec![History::Discard; x.count()]);
                let mut none: Vec<_> = none.iter_mut().collect();
                let conv = conv.convolution(Some(act));
                DeviceSignal::Streams(convolve(&conv, &x, Some(residual.streams()), &mut none))
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
        let convolution = conv.convolution(act);
        let x = match x {
            DeviceSignal::Joined(x, times) => {
                let length = |time: &usize| (time - convolution.past()) * conv.stride;
                let y = trained::transposed(x, conv, act.device(), times);
                return DeviceSignal::Joined(y, times.iter().map(length).collect());
            }
            DeviceSignal::Streams(x) => x,
        };
        DeviceSignal::Streams(convolve(&convolution, x, None, histories))
    }

    fn activated(&self, x: &DeviceSignal, act: &Snake) -> DeviceSignal {
        let snake = act.device().weights();
        DeviceSignal::Streams(x.streams().into_iter().map(|x| snake.apply(x)).collect())
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
        let all = match streams.len() {
            1 => streams[0].clone(),
            _ => Tensor::cat(streams, 2),
        };
        let all = nn::to_f32_vec(&all.cast(DType::F32));
        of_streams(&all, &times)
    }
}
