use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use checkpoint::Weights;
use omni_core::Result;

/// Snake activation with learned frequency and amplitude per channel: `x + sin²(x·e^α) / (e^β + 1e-9)`.
#[derive(Module, Debug)]
pub(crate) struct Snake {
    /// `[C]`, logarithm of the frequency.
    alpha: Param<Tensor<1>>,
    /// `[C]`, logarithm of the inverse amplitude.
    beta: Param<Tensor<1>>,
    /// Frequency and amplitude of each channel, for the CPU.
    #[module(skip)]
    constants: [Vec<f32>; 2],
}

impl Snake {
    pub(crate) fn load(weights: &Weights, channels: usize) -> Result<Self> {
        let load = |name| weights.tensor(name, [channels]).map(Param::from_tensor);
        let (alpha, beta): (Param<Tensor<1>>, Param<Tensor<1>>) = (load("alpha")?, load("beta")?);
        let frequency = nn::numbers(&alpha.val()).into_iter().map(f32::exp).collect();
        let amplitude = nn::numbers(&beta.val()).into_iter().map(|beta| 1.0 / (beta.exp() + 1e-9)).collect();
        Ok(Self { alpha, beta, constants: [frequency, amplitude] })
    }

    /// For the CPU.
    pub(crate) fn host(&self) -> kernels::Snake<'_> {
        let [frequency, amplitude] = &self.constants;
        kernels::Snake { frequency, amplitude }
    }

    /// `[B, C, T]` → `[B, C, T]`.
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (device, batch) = (x.device(), x.dims()[0]);
        if checkpoint::is_host(&device) && x.dtype() == DType::F32 {
            let mut data = x.into_data();
            let values = data.as_mut_slice::<f32>().expect("the type was checked");
            let row = (values.len() / batch).max(1);
            values.chunks_mut(row).for_each(|row| self.host().apply(row));
            return Tensor::from_data(data, &device);
        }
        let channels = self.alpha.dims()[0];
        let frequency = self.alpha.val().exp().reshape([1, channels, 1]);
        let amplitude = (self.beta.val().exp() + 1e-9).recip().reshape([1, channels, 1]);
        let sine = (x.clone() * frequency).sin();
        x + sine.square() * amplitude
    }
}
