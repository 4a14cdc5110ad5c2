use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{VisionConfig, Weights};
use nn::{LayerNorm, Linear, Then, gelu};
use omni_core::Result;

use crate::config::EPS;

/// Makes one row of the patches of a merge block.
#[derive(Module, Debug)]
pub(crate) struct Merger {
    ln_q: LayerNorm,
    mlp: MergerMlp,
    /// Deepstack features are normalised after the patches are joined, the last rows before.
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

    /// # Shapes
    /// `[P, D]` → `[T, output D]`, `T = P / merge²`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let joined = self.mlp.first.input();
        let rows = x.dims().iter().product::<usize>() / joined;
        let x = match self.joined_first {
            true => self.ln_q.forward(x.reshape([rows, joined])),
            false => self.ln_q.forward(x).reshape([rows, joined]),
        };
        self.mlp.second.rows(gelu(self.mlp.first.rows(x)))
    }

    /// As [`Merger::forward`], from host memory; `memory` is what it works with.
    pub(crate) fn on_host(&self, x: &[f32], memory: &mut [Vec<f32>; 2]) -> Vec<f32> {
        let [normed, inner] = memory;
        let MergerMlp { first, second } = &self.mlp;
        let rows = x.len() / first.input();
        [&mut *normed, &mut *inner].into_iter().for_each(|memory| memory.resize(x.len(), 0.0));
        // In memory, patches are joined already.
        self.ln_q.host_rows(x, normed);
        first.host_rows(normed, Then::Gelu, inner);
        let mut y = vec![0.0; rows * second.output()];
        second.host_rows(inner, Then::Keep, &mut y);
        y
    }
}
