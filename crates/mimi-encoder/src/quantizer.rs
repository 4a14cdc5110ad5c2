use burn::module::{Module, Param};
use burn::tensor::Tensor;
use checkpoint::Weights;
use nn::{Linear, Vector};
use omni_core::Result;

use crate::config::MimiConfig;
use crate::engine::MimiEngine;

/// Two residual quantisers of the same latents: the semantic one makes the first codes, the acoustic one the others.
#[derive(Module, Debug)]
pub(crate) struct SplitQuantizer {
    semantic: ResidualQuantizer,
    acoustic: ResidualQuantizer,
}

/// Codebooks that each quantise what the ones before leave of a projected latent.
#[derive(Module, Debug)]
struct ResidualQuantizer {
    input_proj: Option<Linear>,
    layers: Vec<Codebook>,
}

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

impl SplitQuantizer {
    pub(crate) fn load(weights: &Weights, config: &MimiConfig) -> Result<Self> {
        let (semantic, all) = (config.num_semantic_quantizers, config.num_quantizers);
        let part = |name: &str, codebooks| {
            ResidualQuantizer::load(&weights.at(format!("{name}_residual_vector_quantizer")), config, codebooks)
        };
        Ok(Self { semantic: part("semantic", semantic)?, acoustic: part("acoustic", all - semantic)? })
    }

    /// Number of codebooks of the semantic quantiser.
    pub(crate) fn semantic(&self) -> usize {
        self.semantic.layers.len()
    }

    /// Number of codebooks.
    pub(crate) fn codebooks(&self) -> usize {
        self.semantic() + self.acoustic.layers.len()
    }

    /// Codes of the first `codebooks` codebooks, `[N]` each, for latents `[N, D]`.
    pub(crate) fn encode<E: MimiEngine>(&self, e: &E, latents: &mut E::Rows, codebooks: usize) -> Vec<E::Ids> {
        let mut ids = self.semantic.encode(e, latents, self.semantic());
        let acoustic = codebooks - self.semantic();
        if acoustic > 0 {
            ids.extend(self.acoustic.encode(e, latents, acoustic));
        }
        ids
    }
}

impl ResidualQuantizer {
    fn load(weights: &Weights, config: &MimiConfig, codebooks: usize) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.vector_quantization_hidden_dimension);
        let input_proj =
            (inner != width).then(|| Linear::load(&weights.at("input_proj"), [inner, width, 1], false)).transpose()?;
        let shape = [config.codebook_size, config.codebook_dim];
        let layer = |index| Codebook::load(&weights.at(format!("layers.{index}.codebook")), shape);
        Ok(Self { input_proj, layers: (0..codebooks).map(layer).collect::<Result<_>>()? })
    }

    fn encode<E: MimiEngine>(&self, e: &E, latents: &mut E::Rows, codebooks: usize) -> Vec<E::Ids> {
        let mut rest = match &self.input_proj {
            Some(layer) => {
                let [projected] = e.linear(latents, [layer]);
                projected
            }
            None => e.widened(latents),
        };
        let mut ids = Vec::with_capacity(codebooks);
        for codebook in &self.layers[..codebooks] {
            let (left, nearest) = e.nearest(rest, codebook);
            rest = left;
            ids.push(nearest);
        }
        ids
    }
}

impl Codebook {
    fn load(weights: &Weights, [codes, width]: [usize; 2]) -> Result<Self> {
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
