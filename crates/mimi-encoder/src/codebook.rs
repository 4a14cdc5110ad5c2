//! A codebook, and the search for the nearest of its vectors.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
use nn::Vector;
use omni_core::Result;

/// Vectors `[V, D]`, and `-|v|² / 2` of each: what makes the scalar product greatest for the nearest.
#[derive(Module, Debug)]
pub(crate) enum Codebook {
    Device(DeviceCodebook),
    Host(HostCodebook),
}

#[derive(Module, Debug)]
pub(crate) struct DeviceCodebook {
    vectors: Param<Tensor<2>>,
    biases: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
pub(crate) struct HostCodebook {
    vectors: Vector,
    biases: Vector,
}

/// Least usage that a sum of vectors is divided by.
const LEAST_USAGE: f32 = 1e-5;

impl Codebook {
    pub(crate) fn load(weights: &Weights, [codes, width]: [usize; 2]) -> Result<Self> {
        if weights.place().is_host() {
            let sums = weights.values("embed_sum", &[codes, width])?;
            let usage = weights.values("cluster_usage", &[codes])?;
            return Ok(Codebook::Host(HostCodebook::new(sums, &usage, width)));
        }
        let sums: Param<Tensor<2>> = weights.param("embed_sum", [codes, width])?;
        let usage: Param<Tensor<1>> = weights.param("cluster_usage", [codes])?;
        if weights.is_recording() {
            return Ok(Codebook::Device(DeviceCodebook { vectors: sums, biases: usage }));
        }
        let vectors = sums.val() / usage.val().clamp_min(LEAST_USAGE).unsqueeze_dim(1);
        let biases = vectors.clone().square().sum_dim(1).squeeze_dim::<1>(1) * -0.5;
        let (vectors, biases) = (Param::from_tensor(vectors), Param::from_tensor(biases));
        Ok(Codebook::Device(DeviceCodebook { vectors, biases }))
    }

    /// The vectors and their biases in host memory.
    ///
    /// # Panics
    /// If the model was loaded for a device.
    pub(crate) fn host(&self) -> (&[f32], &[f32]) {
        match self {
            Codebook::Host(codebook) => (codebook.vectors.host(), codebook.biases.host()),
            Codebook::Device(_) => panic!("weights on a device were handed to the engine of host memory"),
        }
    }

    /// The vectors and their biases on the device.
    ///
    /// # Panics
    /// If the model was loaded for host memory.
    pub(crate) fn device(&self) -> (Tensor<2>, Tensor<1>) {
        match self {
            Codebook::Device(codebook) => (codebook.vectors.val(), codebook.biases.val()),
            Codebook::Host(_) => panic!("weights in host memory were handed to the engine of a device"),
        }
    }
}

impl HostCodebook {
    fn new(mut vectors: Vec<f32>, usage: &[f32], width: usize) -> Self {
        for (vector, usage) in vectors.chunks_exact_mut(width).zip(usage) {
            vector.iter_mut().for_each(|value| *value /= usage.max(LEAST_USAGE));
        }
        let bias = |vector: &[f32]| -0.5 * vector.iter().map(|value| value * value).sum::<f32>();
        let biases = vectors.chunks_exact(width).map(bias).collect();
        Self { vectors: Vector::of_values(vectors), biases: Vector::of_values(biases) }
    }
}
