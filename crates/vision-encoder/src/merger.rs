use burn::module::Module;
use checkpoint::Weights;
use nn::{Activation, Engine, LayerNorm, Linear};
use omni_core::Result;

use crate::config::EPS;
use crate::config::VisionConfig;

/// Merges the patches of each merge block into one row.
#[derive(Module, Debug)]
pub(crate) struct Merger {
    ln_q: LayerNorm,
    mlp: MergerMlp,
    /// Whether the norm follows the joining of patches, as for deepstack features, or precedes it, as for the last rows.
    joined_first: bool,
}

/// `mlp.0` and `mlp.2` on disk; between them is a GELU.
#[derive(Module, Debug)]
struct MergerMlp {
    first: Linear,
    second: Linear,
}

impl Merger {
    pub(crate) fn load(weights: &Weights, config: &VisionConfig, joined_first: bool) -> Result<Self> {
        let joined = config.hidden_size * config.spatial_merge_size.pow(2);
        let normed = if joined_first { joined } else { config.hidden_size };
        let mlp = weights.at("mlp");
        Ok(Self {
            ln_q: LayerNorm::load(&weights.at("ln_q"), normed, EPS)?,
            mlp: MergerMlp {
                first: Linear::load(&mlp.at(0), [joined, joined], true)?,
                second: Linear::load(&mlp.at(2), [config.out_hidden_size, joined], true)?,
            },
            joined_first,
        })
    }

    /// Merges patches to rows in the thinker's width.
    ///
    /// # Shapes
    /// `[P, D]` → `[T, output D]`, `T = P / merge²`.
    pub(crate) fn forward<E: Engine>(&self, e: &E, x: E::Rows) -> E::Rows {
        let joined = self.mlp.first.input();
        let mut x = match self.joined_first {
            true => e.layer_norm(&e.reshape(x, joined), &self.ln_q),
            false => e.reshape(e.layer_norm(&x, &self.ln_q), joined),
        };
        let mut inner = e.linear_act(&mut x, &self.mlp.first, Activation::Gelu);
        let [y] = e.linear(&mut inner, [&self.mlp.second]);
        y
    }
}
