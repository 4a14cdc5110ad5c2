//! Convolutions with their activation as one function each, where gradients are computed in host memory.

use burn::tensor::Tensor;
use cpu_kernels::{Snake as HostSnake, TrainedConv1d};
use nn::{HostFunction, HostInput, Values, host_function};

use crate::conv::{CausalConv, DeviceKernel, TransposedConv};
use crate::snake::{DeviceSnake, frequency_and_amplitude};

/// Activates and convolves whole streams `[C, sum T]`, each to its own length.
pub(crate) fn causal(x: &Tensor<2>, conv: &CausalConv, act: Option<&DeviceSnake>, times: &[usize]) -> Tensor<2> {
    let convolution = Convolution { kind: Kind::Causal { dilation: conv.dilation }, times: times.to_vec() };
    convolution.apply(x, conv.kernel.device(), act)
}

/// Convolves whole streams `[C, sum T]` by a transposed convolution, activated first; see [`TrainedConv1d::transposed`].
pub(crate) fn transposed(x: &Tensor<2>, conv: &TransposedConv, act: &DeviceSnake, times: &[usize]) -> Tensor<2> {
    let convolution = Convolution { kind: Kind::Transposed { stride: conv.stride }, times: times.to_vec() };
    convolution.apply(x, conv.kernel.device(), Some(act))
}

/// Causal depthwise convolution of rows `[N, C]` of whole streams; `None` where gradients are not computed in host memory.
pub(crate) fn depthwise(x: &Tensor<2>, weight: Tensor<3>, bias: Tensor<1>, times: &[usize]) -> Option<Tensor<2>> {
    let inputs = [HostInput::new(x.clone()), HostInput::new(weight), HostInput::new(bias)];
    host_function(&Depthwise { times: times.to_vec() }, inputs)
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Causal { dilation: usize },
    Transposed { stride: usize },
}

#[derive(Debug, Clone)]
struct Convolution {
    kind: Kind,
    times: Vec<usize>,
}

impl Convolution {
    fn apply(&self, x: &Tensor<2>, kernel: &DeviceKernel, act: Option<&DeviceSnake>) -> Tensor<2> {
        let [x, weight, bias] =
            [HostInput::new(x.clone()), HostInput::new(kernel.weight.val()), HostInput::new(kernel.bias.val())];
        let y = match act {
            None => host_function(self, [x, weight, bias]),
            Some(act) => {
                let [alpha, beta] = [&act.alpha, &act.beta].map(|vector| HostInput::new(vector.val()));
                host_function(self, [x, weight, bias, alpha, beta])
            }
        };
        y.expect("streams are joined where gradients are computed in host memory")
    }

    fn kernel<'a>(&self, weight: Values<'a>, bias: Values<'a>) -> TrainedConv1d<'a> {
        let shape = [0, 1, 2].map(|axis| weight.shape[axis]);
        match self.kind {
            Kind::Causal { dilation } => TrainedConv1d::causal(weight.values, bias.values, shape, dilation),
            Kind::Transposed { stride } => TrainedConv1d::transposed(weight.values, bias.values, shape, stride),
        }
    }

    fn output(&self, y: Vec<f32>, lengths: &[usize]) -> (Vec<usize>, Vec<f32>) {
        let length: usize = lengths.iter().sum();
        (vec![y.len() / length.max(1), length], y)
    }
}

impl HostFunction<3> for Convolution {
    fn forward(&self, [x, weight, bias]: [Values; 3]) -> (Vec<usize>, Vec<f32>) {
        let (y, lengths) = self.kernel(weight, bias).forward(x.values, None, &self.times);
        self.output(y, &lengths)
    }

    fn backward(&self, [x, weight, bias]: [Values; 3], _: Values, gradient: &[f32]) -> [Vec<f32>; 3] {
        let found = self.kernel(weight, bias).backward(x.values, None, &self.times, gradient);
        [found.x, found.weight, found.bias]
    }
}

impl HostFunction<5> for Convolution {
    fn forward(&self, [x, weight, bias, alpha, beta]: [Values; 5]) -> (Vec<usize>, Vec<f32>) {
        let snake = Snake::new(alpha, beta);
        let (y, lengths) = self.kernel(weight, bias).forward(x.values, Some(snake.lent()), &self.times);
        self.output(y, &lengths)
    }

    fn backward(&self, [x, weight, bias, alpha, beta]: [Values; 5], _: Values, gradient: &[f32]) -> [Vec<f32>; 5] {
        let snake = Snake::new(alpha, beta);
        let found = self.kernel(weight, bias).backward(x.values, Some(snake.lent()), &self.times, gradient);
        let [of_alpha, of_beta] = snake.backward(beta, found.snake);
        [found.x, found.weight, found.bias, of_alpha, of_beta]
    }
}

/// Frequency `e^α` and amplitude `1 / (e^β + 1e-9)`.
struct Snake {
    frequency: Vec<f32>,
    amplitude: Vec<f32>,
}

impl Snake {
    fn new(alpha: Values, beta: Values) -> Self {
        let [frequency, amplitude] = frequency_and_amplitude(alpha.values, beta.values);
        Self { frequency, amplitude }
    }

    fn lent(&self) -> HostSnake<'_> {
        HostSnake { frequency: &self.frequency, amplitude: &self.amplitude }
    }

    /// Turns the gradients of frequency and amplitude into those of their logarithms on disk.
    fn backward(&self, beta: Values, [mut of_frequency, mut of_amplitude]: [Vec<f32>; 2]) -> [Vec<f32>; 2] {
        of_frequency.iter_mut().zip(&self.frequency).for_each(|(gradient, frequency)| *gradient *= frequency);
        let amplitudes = self.amplitude.iter().zip(beta.values);
        of_amplitude.iter_mut().zip(amplitudes).for_each(|(gradient, (amplitude, beta))| {
            *gradient *= -amplitude * amplitude * beta.exp();
        });
        [of_frequency, of_amplitude]
    }
}

/// Convolution of each channel on its own, over rows of whole streams.
#[derive(Debug, Clone)]
struct Depthwise {
    times: Vec<usize>,
}

impl Depthwise {
    /// Calls `f(row, seen, tap)` for each row and each row that it sees.
    fn pairs(&self, taps: usize, mut f: impl FnMut(usize, usize, usize)) {
        let mut start = 0;
        for time in &self.times {
            for at in 0..*time {
                // Before the first row of a stream lie zeros.
                for tap in (taps - 1).saturating_sub(at)..taps {
                    f(start + at, start + at + tap + 1 - taps, tap);
                }
            }
            start += time;
        }
    }
}

/// `[C, 1, taps]` → `[taps, C]`.
fn by_tap(weight: Values) -> Vec<f32> {
    let taps = weight.shape[2];
    (0..taps).flat_map(|tap| weight.values.iter().skip(tap).step_by(taps)).copied().collect()
}

impl HostFunction<3> for Depthwise {
    fn forward(&self, [x, weight, bias]: [Values; 3]) -> (Vec<usize>, Vec<f32>) {
        let (width, taps, weight) = (x.shape[1], weight.shape[2], by_tap(weight));
        let mut y = bias.values.repeat(x.shape[0]);
        self.pairs(taps, |row, seen, tap| {
            let terms = x.values[seen * width..][..width].iter().zip(&weight[tap * width..]);
            y[row * width..][..width].iter_mut().zip(terms).for_each(|(y, (x, weight))| *y += x * weight);
        });
        (x.shape.to_vec(), y)
    }

    fn backward(&self, [x, weight, _]: [Values; 3], _: Values, gradient: &[f32]) -> [Vec<f32>; 3] {
        let (width, taps, weight) = (x.shape[1], weight.shape[2], by_tap(weight));
        let (mut of_x, mut of_weight) = (vec![0.0; x.values.len()], vec![0.0; weight.len()]);
        self.pairs(taps, |row, seen, tap| {
            let (g, x) = (&gradient[row * width..][..width], &x.values[seen * width..][..width]);
            let of_x = of_x[seen * width..][..width].iter_mut().zip(&weight[tap * width..]);
            of_x.zip(g).for_each(|((of_x, weight), g)| *of_x += g * weight);
            let of_weight = of_weight[tap * width..][..width].iter_mut();
            of_weight.zip(g.iter().zip(x)).for_each(|(of_weight, (g, x))| *of_weight += g * x);
        });
        let mut of_bias = vec![0.0; width];
        for row in gradient.chunks_exact(width) {
            of_bias.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
        }
        // Back to [C, 1, taps].
        let of_weight = (0..width).flat_map(|channel| of_weight.iter().skip(channel).step_by(width)).copied();
        [of_x, of_weight.collect(), of_bias]
    }
}
