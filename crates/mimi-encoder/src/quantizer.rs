use burn::module::Module;
use checkpoint::Weights;
use nn::Linear;
use omni_core::Result;

use crate::codebook::Codebook;
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
