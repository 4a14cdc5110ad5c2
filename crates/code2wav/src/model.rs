use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, TensorData};
use checkpoint::{Code2WavConfig, OmniConfig, Weights};
use nn::Embedding;
use omni_core::{Dtype, Result};

use crate::causal_conv::{CausalConv, ConvSpec};
use crate::convnext::Upsample;
use crate::decoder_block::DecoderBlock;
use crate::pre_transformer::PreTransformer;
use crate::probe::VocoderProbe;
use crate::snake::Snake;
use crate::stream::VocoderState;

/// Code embedding, transformer, upsampling stages and convolutional decoder.
#[derive(Module, Debug)]
pub struct Code2Wav {
    code_embedding: Embedding,
    pub(crate) pre_transformer: PreTransformer,
    pub(crate) upsample: Vec<Upsample>,
    pub(crate) entrance: CausalConv,
    pub(crate) blocks: Vec<DecoderBlock>,
    pub(crate) act: Snake,
    pub(crate) exit: CausalConv,
    codebook_size: usize,
    #[module(skip)]
    pub(crate) dtype: Dtype,
    samples_per_frame: usize,
    lookahead: usize,
}

impl Code2Wav {
    /// Reads `code2wav.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// As [`Weights::tensor`], or [`omni_core::Error::NotLoaded`] for a checkpoint without audio output.
    pub fn load(weights: &Weights, config: &OmniConfig) -> Result<Self> {
        Self::load_parts(&weights.at("code2wav"), config.code2wav()?)
    }

    /// Reads the vocoder's tensors; `weights` stands at its root.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &Code2WavConfig) -> Result<Self> {
        let (width, table) = (config.hidden_size, config.codebook_size * config.num_quantizers);
        let upsample = config.upsampling_ratios.iter().enumerate();
        let upsample = upsample.map(|(i, factor)| Upsample::load(&weights.at(format!("upsample.{i}")), width, *factor));
        let decoder = |index: usize| weights.at(format!("decoder.{index}"));
        let blocks = config.upsample_rates.iter().enumerate();
        let blocks =
            blocks.map(|(i, rate)| DecoderBlock::load(&decoder(i + 1).at("block"), config.decoder_dim >> i, *rate));
        let (last, channels) = (config.upsample_rates.len() + 1, config.decoder_dim >> config.upsample_rates.len());
        Ok(Self {
            code_embedding: Embedding::load(&weights.at("code_embedding"), [table, width])?,
            pre_transformer: PreTransformer::load(&weights.at("pre_transformer"), config)?,
            upsample: upsample.collect::<Result<_>>()?,
            entrance: CausalConv::load(&decoder(0).at("conv"), ConvSpec::new(width, config.decoder_dim, 7))?,
            blocks: blocks.collect::<Result<_>>()?,
            act: Snake::load(&decoder(last), channels)?,
            exit: CausalConv::load(&decoder(last + 1).at("conv"), ConvSpec::new(channels, 1, 7))?,
            codebook_size: config.codebook_size,
            dtype: weights.dtype(),
            samples_per_frame: config.samples_per_frame(),
            lookahead: lookahead(&config.upsample_rates),
        })
    }

    /// Codes of one codebook.
    pub fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    /// Samples one frame stands for (1920 in the released model).
    pub fn samples_per_frame(&self) -> usize {
        self.samples_per_frame
    }

    /// Samples at the end of a decode that would need a further frame (555 in the released model).
    pub fn lookahead(&self) -> usize {
        self.lookahead
    }

    /// Frames to samples, carrying `state` on.
    ///
    /// # Shapes
    /// `[B, Q, F]` → `[B, N]`, f32 in −1 to 1; `F` is at least 1.
    pub fn run(&self, state: &mut VocoderState, codes: Tensor<3, Int>, probe: &mut dyn VocoderProbe) -> Tensor<2> {
        if codes.dims()[0] == 1
            && !probe.looks()
            && let Some(host) = self.host()
        {
            return self.run_on_host(&host, &mut [state], vec![codes]).remove(0);
        }
        let (mut x, _) = self.upsampled(&mut [state], vec![codes], probe);
        x = self.entrance.forward(x, &mut state.entrance, None, None);
        probe.part("decoder", 0, &x);
        for (index, (block, carried)) in self.blocks.iter().zip(&mut state.blocks).enumerate() {
            x = block.forward(x, carried);
            probe.part("decoder", index + 1, &x);
        }
        if probe.looks() {
            probe.part("decoder", self.blocks.len() + 1, &self.act.forward(x.clone()));
        }
        x = self.exit.forward(x, &mut state.exit, Some(&self.act), None); // [B, 1, N]
        probe.part("decoder", self.blocks.len() + 2, &x);
        x.cast(DType::F32).clamp(-1.0, 1.0).squeeze_dim(1)
    }

    /// Embedding, transformer and upsampling of several streams' frames `[B, Q, F]`, beside each other from one part to the next:
    /// `[B, D, sum T]`, and the `T`.
    pub(crate) fn upsampled(
        &self,
        states: &mut [&mut VocoderState],
        codes: Vec<Tensor<3, Int>>,
        probe: &mut dyn VocoderProbe,
    ) -> (Tensor<3>, Vec<usize>) {
        let mut times: Vec<usize> = codes.iter().map(|codes| codes.dims()[2]).collect();
        let x = self.embed(Tensor::cat(codes, 2)); // [B, sum F, D]
        probe.part("embedding_mean", 0, &x);
        let streams = states.iter_mut().zip(&times).map(|(state, frames)| (&mut state.pre_transformer, *frames));
        let x = self.pre_transformer.forward(x, &mut streams.collect::<Vec<_>>(), self.dtype, probe);
        probe.part("norm", 0, &x);
        let mut x = x.swap_dims(1, 2); // [B, D, sum F]
        for (index, stage) in self.upsample.iter().enumerate() {
            times.iter_mut().for_each(|time| *time *= stage.factor());
            let streams = states.iter_mut().zip(&times).map(|(state, time)| (&mut state.upsample[index], *time));
            x = stage.forward(x, streams.collect(), index, probe);
        }
        (x, times)
    }

    /// Mean of the codebooks' rows; one table holds all codebooks after one another.
    fn embed(&self, codes: Tensor<3, Int>) -> Tensor<3> {
        let [batch, codebooks, frames] = codes.dims();
        let offsets: Vec<i64> = (0..codebooks).map(|q| (q * self.codebook_size) as i64).collect();
        let offsets = Tensor::<3, Int>::from_data(TensorData::new(offsets, [1, codebooks, 1]), &codes.device());
        let rows = self.code_embedding.forward((codes + offsets).reshape([batch, codebooks * frames]));
        let width = rows.dims()[2];
        rows.reshape([batch, codebooks, frames, width]).mean_dim(1).squeeze_dim(1) // [B, F, D]
    }
}

/// Each block loses one step of its own input rate.
fn lookahead(rates: &[usize]) -> usize {
    (0..rates.len()).map(|i| rates[i..].iter().product::<usize>()).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn released_lookahead() {
        assert_eq!(super::lookahead(&[8, 5, 4, 3]), 555);
    }
}
