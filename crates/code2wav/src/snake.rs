use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
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
    alpha: Param<Tensor<1>>,
    /// Logarithm of the inverse amplitude.
    beta: Param<Tensor<1>>,
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
        let frequency = load("alpha")?.into_iter().map(f32::exp).collect();
        let amplitude = load("beta")?.into_iter().map(|beta| 1.0 / (beta.exp() + 1e-9)).collect();
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

    /// Applies the activation on a device: `[1, C, T]` → `[1, C, T]`.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn on_device(&self, x: Tensor<3>) -> Tensor<3> {
        let Snake::Device(DeviceSnake { alpha, beta }) = self else {
            panic!("weights in host memory were handed to the engine of a device")
        };
        let channels = alpha.dims()[0];
        let frequency = alpha.val().exp().reshape([1, channels, 1]);
        let amplitude = (beta.val().exp() + 1e-9).recip().reshape([1, channels, 1]);
        x.clone() + (x * frequency).sin().square() * amplitude
    }
}
