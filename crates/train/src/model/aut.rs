//! The audio encoder with a causal text decoder behind it, as it is trained to transcribe (paper, section 2.2; its figure 3).

use aut_encoder::{AudioConfig, AutDecoder, AutDecoderConfig, AutDecoderRun, AutEncoder};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use checkpoint::{Checkpoint, Weights};
use omni_core::{Dtype, Place};

use crate::Result;

/// A sound and the text that is given to the decoder.
#[derive(Debug, Clone)]
pub struct Transcript<'a> {
    /// Log-mel frames `[T, M]`.
    pub sound: Tensor<2>,
    /// Prompt and text.
    pub ids: &'a [u32],
}

/// Rows that the encoder made of a batch of sounds.
#[derive(Debug, Clone)]
pub struct EncodedSounds {
    /// `[N, D]`, after the encoder's last norm.
    pub rows: Tensor<2>,
    /// Number of rows of each sound.
    pub lengths: Vec<usize>,
}

/// The audio encoder and the text decoder.
#[derive(Module, Debug)]
pub struct AutModel {
    encoder: AutEncoder,
    decoder: AutDecoder,
}

impl AutModel {
    /// Loads the encoder from a checkpoint to compute in a number type, and makes a decoder of random weights under the names `decoder.*`.
    ///
    /// # Errors
    /// The errors of the config's section and of [`Checkpoint::check`].
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        config: &AutDecoderConfig,
        (device, dtype): (&Device, Dtype),
    ) -> Result<Self> {
        let audio: AudioConfig = checkpoint.config().section()?;
        let weights = Weights::random(&Place::Device(device.clone()), dtype);
        Self::with_decoder(checkpoint, AutDecoder::load(&weights, config, &audio)?, (device, dtype))
    }

    /// Loads the encoder from a checkpoint, with a decoder on the same device and in the same number type.
    ///
    /// # Errors
    /// The errors of the config's section and of [`Checkpoint::check`].
    pub fn with_decoder(
        checkpoint: &Checkpoint,
        decoder: AutDecoder,
        (device, dtype): (&Device, Dtype),
    ) -> Result<Self> {
        let encoder = AutEncoder::from_checkpoint(checkpoint, &Place::Device(device.clone()), dtype)?;
        Ok(Self { encoder, decoder })
    }

    /// Encodes the sounds of a batch in one call; `seconds` is the attention window, `None` the encoder's own.
    ///
    /// # Errors
    /// The errors of [`AutEncoder::hidden_states`].
    pub fn encode(&self, batch: &[Transcript], seconds: Option<usize>) -> Result<EncodedSounds> {
        let sounds: Vec<Tensor<2>> = batch.iter().map(|item| item.sound.clone()).collect();
        let lengths = sounds.iter().map(|sound| self.encoder.tokens(sound.dims()[0])).collect();
        Ok(EncodedSounds { rows: self.encoder.hidden_states(&sounds, seconds)?, lengths })
    }

    /// States of the given tokens, one item after another; each text attends to the rows of its own sound.
    ///
    /// # Shapes
    /// → `[all tokens, D]`.
    ///
    /// # Errors
    /// The errors of [`AutDecoder::hidden_states`].
    pub fn hidden_states(&self, encoded: &EncodedSounds, batch: &[Transcript]) -> Result<Tensor<2>> {
        let sounds = encoded.rows.clone().split_with_sizes(encoded.lengths.clone(), 0);
        let mut states = self.decoder.begin(&sounds);
        let texts = states.iter_mut().zip(batch);
        let mut runs: Vec<_> = texts.map(|(state, item)| AutDecoderRun { state, ids: item.ids }).collect();
        Ok(self.decoder.hidden_states(&mut runs)?)
    }

    /// Logits of the token after each of the given states.
    ///
    /// # Shapes
    /// `[n, D]` → `[n, V]`.
    pub fn logits(&self, hidden: &Tensor<2>) -> Tensor<2> {
        self.decoder.logits(hidden)
    }
}
