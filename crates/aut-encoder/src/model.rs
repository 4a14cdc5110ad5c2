use burn::module::Module;
use burn::tensor::{Device, Tensor};
use checkpoint::{AudioConfig, Checkpoint, Component, OmniConfig, Weights};
use nn::{LayerNorm, Linear, gelu};
use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Result, SpanLayout};

use crate::AutProbe;
use crate::config::{chunk, window_chunks};
use crate::conv_stem::ConvStem;
use crate::layer::{AutLayer, EPS};
use crate::positions::sinusoids;
use crate::windows::{Window, windows};

/// Windows that go through the layers together: enough rows for fast products, few enough for flat memory.
const WINDOWS_PER_BATCH: usize = 4;
/// Chunks that are convolved together.
pub(crate) const CHUNKS_PER_BATCH: usize = 8;

/// Convolutions, transformer layers with attention inside windows, and the projection to the thinker's width.
#[derive(Module, Debug)]
pub struct AutEncoder {
    pub(crate) stem: ConvStem,
    /// `[rows of a chunk, D]`, the same for every chunk.
    pub(crate) positions: Tensor<2>,
    pub(crate) layers: Vec<AutLayer>,
    pub(crate) ln_post: LayerNorm,
    pub(crate) proj1: Linear,
    pub(crate) proj2: Linear,
    #[module(skip)]
    config: AudioConfig,
    window: usize,
}

impl AutEncoder {
    /// Loads the encoder alone, in f32.
    ///
    /// # Errors
    /// As [`Checkpoint::check`] for the audio encoder's tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        checkpoint.check(&[Component::AudioEncoder])?;
        Self::load(&Weights::new(checkpoint, device, Dtype::F32), checkpoint.config())
    }

    /// Reads `thinker.audio_tower.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &OmniConfig) -> Result<Self> {
        Self::load_parts(&weights.at("thinker.audio_tower"), &config.thinker.audio)
    }

    /// Reads the encoder's tensors.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let (width, output) = (config.d_model, config.output_dim);
        let layer = |index| AutLayer::load(&weights.at("layers").at(index), config);
        let rows = config.tokens(chunk(config)).max(config.tokens(chunk(config) - 1));
        Ok(Self {
            stem: ConvStem::load(weights, config)?,
            positions: sinusoids(rows, width, weights.device(), weights.dtype()),
            layers: (0..config.encoder_layers).map(layer).collect::<Result<_>>()?,
            ln_post: LayerNorm::load(&weights.at("ln_post"), width, EPS)?,
            proj1: Linear::load(&weights.at("proj1"), [width, width], true)?,
            proj2: Linear::load(&weights.at("proj2"), [output, width], true)?,
            config: config.clone(),
            window: (config.n_window_infer / chunk(config)).max(1),
        })
    }

    /// Sets the attention window to 1 to 8 seconds; the checkpoint's own (8 in the released one) if never set.
    ///
    /// # Errors
    /// [`Error::Request`] for any other length.
    pub fn with_window(mut self, seconds: usize) -> Result<Self> {
        self.window = window_chunks(&self.config, seconds)?;
        Ok(self)
    }

    /// Rows the encoder makes of so many log-mel frames.
    pub fn tokens(&self, mel_frames: usize) -> usize {
        self.config.tokens(mel_frames)
    }

    /// As [`ModalityEncoder::encode`], with a look at every step.
    ///
    /// # Errors
    /// As [`ModalityEncoder::encode`].
    pub fn encode_with(&self, items: &[Tensor<2>], probe: &mut dyn AutProbe) -> Result<Encoded> {
        let frames = self.check(items)?;
        let size = chunk(&self.config);
        // The reference pads all chunks of a call to the longest one.
        let padded = frames.iter().map(|frames| (*frames).min(size)).max().unwrap_or(0);
        let windows = windows(&frames, size, self.window);
        let batches = windows.chunks(WINDOWS_PER_BATCH).map(|batch| self.batch(items, batch, padded, probe));
        let spans = frames.iter().map(|frames| SpanLayout::Audio { tokens: self.tokens(*frames) }).collect();
        Ok(Encoded { embeds: Tensor::cat(batches.collect(), 0), spans, deepstack: Vec::new() })
    }

    /// What [`ModalityEncoder::encode`] gives, without its first `known` rows: windows that lie among them are not computed.
    ///
    /// # Shapes
    /// → `[rows - known, output D]`.
    ///
    /// # Errors
    /// As [`ModalityEncoder::encode`].
    ///
    /// # Panics
    /// If there are no rows but the known ones.
    pub fn encode_after(&self, items: &[Tensor<2>], known: usize) -> Result<Tensor<2>> {
        let frames = self.check(items)?;
        let size = chunk(&self.config);
        let padded = frames.iter().map(|frames| (*frames).min(size)).max().unwrap_or(0);
        let windows = windows(&frames, size, self.window);
        let rows = |window: &Window| window.chunks.iter().map(|range| self.tokens(range.len())).sum::<usize>();
        let mut before = 0;
        let first = windows.iter().take_while(|window| {
            let whole = before + rows(window) <= known;
            before += if whole { rows(window) } else { 0 };
            whole
        });
        let first = first.count();
        let rest = windows[first..].chunks(WINDOWS_PER_BATCH).map(|batch| self.batch(items, batch, padded, &mut ()));
        let rest = Tensor::cat(rest.collect(), 0);
        let (begun, left) = (known - before, rest.dims()[0]);
        Ok(rest.narrow(0, begun, left - begun))
    }

    /// Log-mel frames of one attention window: rows of different windows do not depend on each other.
    pub fn window_frames(&self) -> usize {
        chunk(&self.config) * self.window
    }

    fn check(&self, items: &[Tensor<2>]) -> Result<Vec<usize>> {
        let bins = self.config.num_mel_bins;
        let refuse = |reason: String| Err(Error::Media { part: "sound".into(), reason });
        if items.is_empty() {
            return refuse("there are no items to encode".into());
        }
        for (index, item) in items.iter().enumerate() {
            let [frames, found] = item.dims();
            if frames == 0 || found != bins {
                let item = index + 1;
                return refuse(format!(
                    "item {item} has {frames} frames of {found} mel bins, expected 1 or more of {bins}"
                ));
            }
        }
        Ok(items.iter().map(|item| item.dims()[0]).collect())
    }

    /// Some windows from log-mel frames to finished rows `[N, output D]`.
    fn batch(&self, items: &[Tensor<2>], batch: &[Window], padded: usize, probe: &mut dyn AutProbe) -> Tensor<2> {
        let lengths: Vec<usize> =
            batch.iter().map(|w| w.chunks.iter().map(|range| self.tokens(range.len())).sum()).collect();
        if self.proj1.is_on_host() {
            return self.batch_on_host(items, batch, &lengths, padded, probe);
        }
        let mut x = self.rows(items, batch, padded, probe); // [N, D]
        probe.input(&x, &lengths);
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &lengths);
            probe.layer(index, &x);
        }
        let x = self.ln_post.forward(x);
        probe.norm(&x);
        self.proj2.rows(gelu(self.proj1.rows(x)))
    }

    /// Convolved chunks with their positions, padding dropped.
    pub(crate) fn rows(
        &self,
        items: &[Tensor<2>],
        batch: &[Window],
        padded: usize,
        probe: &mut dyn AutProbe,
    ) -> Tensor<2> {
        let chunks: Vec<_> = batch.iter().flat_map(|w| w.chunks.iter().map(|range| (w.item, range.clone()))).collect();
        let mut rows = Vec::new();
        for some in chunks.chunks(CHUNKS_PER_BATCH) {
            let frames = some.iter().map(|(item, range)| {
                let chunk = items[*item].clone().narrow(0, range.start, range.len());
                let pad = padded - range.len();
                let zeros = || Tensor::zeros([pad, self.config.num_mel_bins], (&chunk.device(), chunk.dtype()));
                let whole = if pad == 0 { chunk } else { Tensor::cat(vec![chunk.clone(), zeros()], 0) };
                whole.transpose() // [M, F]
            });
            let x = self.stem.forward(Tensor::stack(frames.collect(), 0), probe); // [chunks, F/8, D]
            let [_, time, _] = x.dims();
            let x = x + self.positions.clone().narrow(0, 0, time).unsqueeze();
            for (index, (_, range)) in some.iter().enumerate() {
                let kept = x.clone().narrow(0, index, 1).narrow(1, 0, self.tokens(range.len()));
                rows.push(kept.squeeze_dim::<2>(0));
            }
        }
        Tensor::cat(rows, 0)
    }
}

impl ModalityEncoder for AutEncoder {
    /// Log-mel frames `[T, M]` of each item, in the encoder's number type.
    type Features = Vec<Tensor<2>>;

    /// All items of one prompt belong into one call: chunks shorter than a second are padded to the longest chunk of the call.
    fn encode(&self, items: Vec<Tensor<2>>) -> Result<Encoded> {
        self.encode_with(&items, &mut ())
    }
}
