use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
use gpu_kernels::Snake as SnakeWeights;
use nn::Vector;
use omni_core::Result;

/// Snake activation with learned frequency and amplitude per channel: `x + sin²(x·e^α) / (e^β + 1e-9)`.
#[derive(Module, Debug)]
pub(crate) enum Snake {
    /// On a device.
    Device(DeviceSnake),
    /// In host memory.
    Host(HostSnake),
}

/// The logarithms on disk, `[C]` each.
#[derive(Module, Debug)]
pub(crate) struct DeviceSnake {
    /// Logarithm of the frequency.
    pub(crate) alpha: Param<Tensor<1>>,
    /// Logarithm of the inverse amplitude.
    pub(crate) beta: Param<Tensor<1>>,
}

/// Frequency and amplitude of each channel.
#[derive(Module, Debug)]
pub(crate) struct HostSnake {
    frequency: Vector,
    amplitude: Vector,
}

impl Snake {
    pub(crate) fn load(weights: &Weights, channels: usize) -> Result<Self> {
        if !weights.place().is_host() {
            let load = |name| weights.param(name, [channels]);
            return Ok(Snake::Device(DeviceSnake { alpha: load("alpha")?, beta: load("beta")? }));
        }
        let load = |name| weights.values(name, &[channels]);
        let [frequency, amplitude] = frequency_and_amplitude(&load("alpha")?, &load("beta")?);
        let (frequency, amplitude) = (Vector::of_values(frequency), Vector::of_values(amplitude));
        Ok(Snake::Host(HostSnake { frequency, amplitude }))
    }

    /// The activation in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub(crate) fn host(&self) -> cpu_kernels::Snake<'_> {
        match self {
            Snake::Host(snake) => {
                cpu_kernels::Snake { frequency: snake.frequency.host(), amplitude: snake.amplitude.host() }
            }
            Snake::Device(_) => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// The activation on a device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn device(&self) -> &DeviceSnake {
        match self {
            Snake::Device(snake) => snake,
            Snake::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }
    }
}

impl DeviceSnake {
    pub(crate) fn weights(&self) -> SnakeWeights {
        SnakeWeights { alpha: self.alpha.val(), beta: self.beta.val() }
    }
}

/// `e^α` and `1 / (e^β + 1e-9)` of each channel.
pub(crate) fn frequency_and_amplitude(alpha: &[f32], beta: &[f32]) -> [Vec<f32>; 2] {
    [
        alpha.iter().map(|alpha| alpha.exp()).collect(),
        beta.iter().map(|beta| 1.0 / (beta.exp() + SnakeWeights::AMPLITUDE_EPS)).collect(),
    ]
}
