use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
use nn::Linear;
use omni_core::Result;

use crate::config::PadMode;

/// Sizes of a causal convolution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvSpec {
    /// `[in, out]`.
    pub(crate) channels: [usize; 2],
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) bias: bool,
    pub(crate) pad: PadMode,
}

/// Causal Conv1d over rows `[N, C]`. Its left padding is the history; the last inputs of a stream are padded at the right until every
/// input is in an output.
#[derive(Module, Debug)]
pub(crate) struct CausalConv {
    pub(crate) kernel: Kernel,
    #[module(skip)]
    pub(crate) spec: ConvSpec,
    /// Which of a stream's histories is this convolution's.
    pub(crate) index: usize,
}

/// Weights in the form their engine convolves them in.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // A few per model.
pub(crate) enum Kernel {
    Device(DeviceKernel),
    /// `[out, kernel * in]`, for a GEMM over the inputs of each output.
    Host(Linear),
}

/// `weight` `[out, in, kernel]` and `bias` `[out]`.
#[derive(Module, Debug)]
pub(crate) struct DeviceKernel {
    pub(crate) weight: Param<Tensor<3>>,
    pub(crate) bias: Option<Param<Tensor<1>>>,
}

/// Numbers the convolutions of a model in the order they are loaded in.
#[derive(Debug, Default)]
pub(crate) struct Numbering(std::cell::Cell<usize>);

impl Numbering {
    fn next(&self) -> usize {
        self.0.replace(self.0.get() + 1)
    }

    /// How many convolutions were loaded.
    pub(crate) fn count(&self) -> usize {
        self.0.get()
    }
}

impl ConvSpec {
    /// With bias, stride 1 and zeros as padding.
    pub(crate) fn new(input: usize, output: usize, kernel: usize, pad: PadMode) -> Self {
        Self { channels: [input, output], kernel, stride: 1, dilation: 1, bias: true, pad }
    }

    /// Inputs from the first to the last that an output sees.
    pub(crate) fn span(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// Inputs that an output sees before those of its own stride.
    pub(crate) fn past(&self) -> usize {
        self.span() - self.stride
    }

    /// Whether each output is made of one input alone.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1
    }

    /// Number of outputs of `inputs` rows, those before the stream included.
    pub(crate) fn outputs(&self, inputs: usize) -> usize {
        inputs.saturating_sub(self.past()) / self.stride
    }

    /// Number of rows after the last of `inputs` rows that complete the last output.
    pub(crate) fn right_padding(&self, inputs: usize) -> usize {
        let new = inputs.saturating_sub(self.past());
        new.next_multiple_of(self.stride) - new
    }
}

impl CausalConv {
    pub(crate) fn load(weights: &Weights, spec: ConvSpec, numbering: &Numbering) -> Result<Self> {
        Ok(Self { kernel: Kernel::load(&weights.at("conv"), &spec)?, spec, index: numbering.next() })
    }
}

impl Kernel {
    fn load(weights: &Weights, spec: &ConvSpec) -> Result<Self> {
        let ([input, output], kernel) = (spec.channels, spec.kernel);
        let shape = [output, input, kernel];
        if !weights.place().is_host() {
            let bias = spec.bias.then(|| weights.param("bias", [output])).transpose()?;
            return Ok(Kernel::Device(DeviceKernel { weight: weights.param("weight", shape)?, bias }));
        }
        let weight = weights.values("weight", &shape)?;
        let bias = spec.bias.then(|| weights.values("bias", &[output])).transpose()?;
        let by_tap = weight
            .chunks_exact(input * kernel)
            .flat_map(|of_output| (0..kernel).flat_map(move |tap| of_output.iter().skip(tap).step_by(kernel).copied()));
        let by_tap: Vec<f32> = by_tap.collect();
        Ok(Kernel::Host(Linear::of_values(weights, &by_tap, [output, kernel * input], bias)))
    }

    /// The weights in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub(crate) fn host(&self) -> &Linear {
        match self {
            Kernel::Host(layer) => layer,
            Kernel::Device(_) => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// The weights on the device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn device(&self) -> &DeviceKernel {
        match self {
            Kernel::Device(kernel) => kernel,
            Kernel::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_in_an_output_at_the_end() {
        for stride in 1..6 {
            let spec = ConvSpec { stride, ..ConvSpec::new(1, 1, 2 * stride, PadMode::Constant) };
            for inputs in 0..40 {
                let padded = spec.past() + inputs + spec.right_padding(spec.past() + inputs);
                assert_eq!(spec.outputs(padded), inputs.div_ceil(stride));
                assert_eq!(spec.outputs(spec.past() + inputs), inputs / stride);
            }
        }
    }
}
