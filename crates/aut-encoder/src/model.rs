use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{Checkpoint, Weights};
use nn::{Activation, AnyEngine, Engine, LayerNorm, Linear, on_engine};
use omni_core::{Dtype, Encoded, Error, ModalityEncoder, Place, Result, SpanLayout};

use crate::config::window_chunks;
use crate::conv_stem::{ConvStem, StemEngine, pictures, tensor_of};
use crate::layer::{AutLayer, EPS};
use crate::positions::sinusoids;
use crate::windows::{Window, windows};
use crate::{AudioConfig, AutProbe};

/// What goes through the encoder at a time.
#[derive(Debug, Clone, Copy)]
struct BatchSizes {
    /// Windows through the layers.
    windows: usize,
    /// Chunks through the convolutions.
    chunks: usize,
}

impl BatchSizes {
    /// Enough rows for fast GEMMs, few enough for flat memory. A GPU needs more rows to be busy.
    fn of(engine: &AnyEngine) -> Self {
        match engine {
            AnyEngine::Host(_) => Self { windows: 4, chunks: 8 },
            AnyEngine::Device(_) => Self { windows: 16, chunks: 32 },
        }
    }
}

/// Convolutions, transformer layers with attention inside windows, and the projection to the thinker's width.
#[derive(Module, Debug)]
pub struct AutEncoder {
    stem: ConvStem,
    layers: Vec<AutLayer>,
    ln_post: LayerNorm,
    proj1: Linear,
    proj2: Linear,
    /// `[rows of a chunk, D]`: the position table, the same for every chunk.
    #[module(skip)]
    positions: Vec<f32>,
    #[module(skip)]
    config: AudioConfig,
    window: usize,
    #[module(skip)]
    engine: AnyEngine,
}

impl AutEncoder {
    /// Loads the encoder alone, computed in `dtype`.
    ///
    /// # Errors
    /// The errors of [`Checkpoint::check`] for the audio encoder's tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place, dtype: Dtype) -> Result<Self> {
        let config: AudioConfig = checkpoint.config().section()?;
        let in_scope = |name: &str| name.starts_with("thinker.audio_tower.");
        checkpoint.load(place, dtype, in_scope, |weights| Self::load(weights, &config))
    }

    /// Reads `thinker.audio_tower.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        Self::load_parts(&weights.at("thinker.audio_tower"), config)
    }

    /// Reads the encoder's tensors.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load_parts(weights: &Weights, config: &AudioConfig) -> Result<Self> {
        let (width, output) = (config.d_model, config.output_dim);
        let layer = |index| AutLayer::load(&weights.at("layers").at(index), config);
        let rows = config.tokens(config.chunk_frames()).max(config.tokens(config.chunk_frames() - 1));
        Ok(Self {
            stem: ConvStem::load(weights, config)?,
            // A width beyond any model's must not cost a table before it is compared with the tensors.
            positions: if weights.is_recording() { Vec::new() } else { sinusoids(rows, width) },
            layers: (0..config.encoder_layers).map(layer).collect::<Result<_>>()?,
            ln_post: LayerNorm::load(&weights.at("ln_post"), width, EPS)?,
            proj1: Linear::load(&weights.at("proj1"), [width, width], true)?,
            proj2: Linear::load(&weights.at("proj2"), [output, width], true)?,
            config: config.clone(),
            window: (config.n_window_infer / config.chunk_frames()).max(1),
            engine: AnyEngine::of(weights),
        })
    }

    /// Sets the attention window to 1 to 8 seconds; by default it is the checkpoint's own (8 in the released one).
    ///
    /// # Errors
    /// [`Error::Request`] for any other length.
    pub fn with_window(mut self, seconds: usize) -> Result<Self> {
        self.window = window_chunks(&self.config, seconds)?;
        Ok(self)
    }

    /// The device of items.
    pub fn device(&self) -> burn::tensor::Device {
        self.engine.tensors().0
    }

    /// Number of rows the encoder makes of `mel_frames` log-mel frames.
    pub fn tokens(&self, mel_frames: usize) -> usize {
        self.config.tokens(mel_frames)
    }

    /// Encodes as [`ModalityEncoder::encode`] does, showing every step to `probe`.
    ///
    /// # Errors
    /// The errors of [`ModalityEncoder::encode`].
    pub fn encode_with(&self, items: &[Tensor<2>], probe: &mut dyn AutProbe) -> Result<Encoded> {
        self.encode_all(items, probe, &|| false)
    }

    /// Encodes as [`ModalityEncoder::encode`] does, and asks `stopped` before every few windows whether to go on.
    ///
    /// # Errors
    /// The errors of [`ModalityEncoder::encode`]; [`Error::Cancelled`] when `stopped` says so.
    pub fn encode_until(&self, items: &[Tensor<2>], stopped: &dyn Fn() -> bool) -> Result<Encoded> {
        self.encode_all(items, &mut (), stopped)
    }

    fn encode_all(&self, items: &[Tensor<2>], probe: &mut dyn AutProbe, stopped: &dyn Fn() -> bool) -> Result<Encoded> {
        let frames = self.check(items)?;
        let windows = windows(&frames, self.config.chunk_frames(), self.window);
        let spans = frames.iter().map(|frames| SpanLayout::Audio { tokens: self.tokens(*frames) }).collect();
        Ok(Encoded { embeds: self.encode_windows(items, &windows, probe, stopped)?, spans, deepstack: Vec::new() })
    }

    /// The rows of [`ModalityEncoder::encode`] without the first `known`: windows that lie among these are not computed. Asks
    /// `stopped` before every few windows whether to go on.
    ///
    /// # Shapes
    /// → `[rows - known, output D]`.
    ///
    /// # Errors
    /// The errors of [`ModalityEncoder::encode`]; [`Error::Cancelled`] when `stopped` says so.
    ///
    /// # Panics
    /// If there are no rows beyond the first `known`.
    pub fn encode_after(&self, items: &[Tensor<2>], known: usize, stopped: &dyn Fn() -> bool) -> Result<Tensor<2>> {
        let frames = self.check(items)?;
        let windows = windows(&frames, self.config.chunk_frames(), self.window);
        let mut before = 0;
        let first = windows.iter().take_while(|window| {
            let whole = before + self.rows_of(window) <= known;
            before += if whole { self.rows_of(window) } else { 0 };
            whole
        });
        let first = first.count();
        let rest = self.encode_windows(items, &windows[first..], &mut (), stopped)?;
        let (begun, left) = (known - before, rest.dims()[0]);
        Ok(rest.narrow(0, begun, left - begun))
    }

    /// Encodes items up to the last norm, before the projection to the thinker's width: what a text decoder attends to when the
    /// encoder is trained to transcribe. `seconds` is the attention window, 1 to 8; `None` is the encoder's own.
    ///
    /// # Shapes
    /// → `[N, D]`, one item after another; [`AutEncoder::tokens`] gives the rows of each.
    ///
    /// # Errors
    /// The errors of [`ModalityEncoder::encode`], and those of [`AutEncoder::with_window`].
    pub fn hidden_states(&self, items: &[Tensor<2>], seconds: Option<usize>) -> Result<Tensor<2>> {
        let frames = self.check(items)?;
        let window = seconds.map_or(Ok(self.window), |seconds| window_chunks(&self.config, seconds))?;
        let windows = windows(&frames, self.config.chunk_frames(), window);
        let padded = self.longest_chunk(items);
        let of_batch = |batch: &[Window]| {
            on_engine!(self.engine, |e| {
                let x = self.normed(e, items, batch, padded, &mut ());
                e.tensor(&x, 0..e.shape(&x)[0])
            })
        };
        Ok(Tensor::cat(windows.chunks(BatchSizes::of(&self.engine).windows).map(of_batch).collect(), 0))
    }

    /// Encodes some windows of a call.
    fn encode_windows(
        &self,
        items: &[Tensor<2>],
        windows: &[Window],
        probe: &mut dyn AutProbe,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Tensor<2>> {
        let padded = self.longest_chunk(items);
        let mut rows = Vec::new();
        for batch in windows.chunks(BatchSizes::of(&self.engine).windows) {
            if stopped() {
                return Err(Error::Cancelled);
            }
            rows.push(on_engine!(self.engine, |e| self.batch(e, items, batch, padded, &mut *probe)));
        }
        Ok(Tensor::cat(rows, 0))
    }

    /// Frames of the longest chunk of a call; the reference pads the others to it.
    fn longest_chunk(&self, items: &[Tensor<2>]) -> usize {
        items.iter().map(|item| item.dims()[0].min(self.config.chunk_frames())).max().unwrap_or(0)
    }

    /// Rows the encoder makes of a window.
    fn rows_of(&self, window: &Window) -> usize {
        window.chunks.iter().map(|range| self.tokens(range.len())).sum()
    }

    /// Log-mel frames of one chunk, which is convolved on its own and padded to the longest of the call.
    pub fn chunk_frames(&self) -> usize {
        self.config.chunk_frames()
    }

    /// Log-mel frames of one attention window: rows of different windows do not depend on each other.
    pub fn window_frames(&self) -> usize {
        self.config.chunk_frames() * self.window
    }

    fn check(&self, items: &[Tensor<2>]) -> Result<Vec<usize>> {
        let bins = self.config.num_mel_bins;
        let refuse = |reason: String| Err(Error::media("sound", reason));
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

    /// Encodes a batch of windows, from log-mel frames to finished rows `[N, output D]`.
    fn batch<E: StemEngine>(
        &self,
        e: &E,
        items: &[Tensor<2>],
        batch: &[Window],
        padded: usize,
        probe: &mut dyn AutProbe,
    ) -> Tensor<2> {
        let mut x = self.normed(e, items, batch, padded, probe);
        let mut inner = e.linear_act(&mut x, &self.proj1, Activation::Gelu);
        let [y] = e.linear(&mut inner, [&self.proj2]);
        e.tensor(&y, 0..e.shape(&y)[0])
    }

    /// Encodes a batch of windows up to the last norm, before the projection to the thinker's width: `[N, D]`.
    fn normed<E: StemEngine>(
        &self,
        e: &E,
        items: &[Tensor<2>],
        batch: &[Window],
        padded: usize,
        probe: &mut dyn AutProbe,
    ) -> E::Rows {
        let lengths: Vec<usize> = batch.iter().map(|window| self.rows_of(window)).collect();
        let rows = lengths.iter().sum();
        let mut x = self.rows(e, items, batch, padded, probe); // [N, D]
        if probe.is_active() {
            probe.input(&e.tensor(&x, 0..rows), &lengths);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(e, x, &lengths);
            if probe.is_active() {
                probe.layer(index, &e.tensor(&x, 0..rows));
            }
        }
        let x = e.layer_norm(&x, &self.ln_post);
        if probe.is_active() {
            probe.norm(&e.tensor(&x, 0..rows));
        }
        x
    }

    /// Convolves a batch of windows and adds positions, with padding dropped.
    fn rows<E: StemEngine>(
        &self,
        e: &E,
        items: &[Tensor<2>],
        batch: &[Window],
        padded: usize,
        probe: &mut dyn AutProbe,
    ) -> E::Rows {
        let chunks: Vec<_> = batch.iter().flat_map(|w| w.chunks.iter().map(|range| (w.item, range.clone()))).collect();
        let (width, mut parts) = (self.config.d_model, Vec::new());
        for some in chunks.chunks(BatchSizes::of(&self.engine).chunks) {
            let frames = some.iter().map(|(item, range)| items[*item].clone().narrow(0, range.start, range.len()));
            let x = self.stem.convolve(e, &frames.collect::<Vec<_>>(), padded);
            let count = e.shape(&x)[0];
            if probe.is_active() {
                probe.conv(&pictures(e.tensor(&x, 0..count), some.len(), self.config.downsample_hidden_size));
            }
            let x = self.stem.project(e, x); // [chunks * F/8, D]
            let time = count / some.len();
            if probe.is_active() {
                probe.conv_out(&e.tensor(&x, 0..count).reshape([some.len(), time, width]));
            }
            let kept = some
                .iter()
                .enumerate()
                .flat_map(|(at, (_, range))| (0..self.tokens(range.len())).map(move |row| at * time + row));
            let kept: Vec<usize> = kept.collect();
            let positions = kept.iter().flat_map(|row| &self.positions[row % time * width..][..width]).copied();
            let positions = e.rows(&[&tensor_of(positions.collect(), width, &items[0].device())]);
            let x = e.add(e.select(&x, &kept), &positions);
            parts.push(e.tensor(&x, 0..kept.len()));
        }
        e.rows(&parts.iter().collect::<Vec<_>>())
    }
}

impl ModalityEncoder for AutEncoder {
    /// Log-mel frames `[T, M]` of each item, in the encoder's number type.
    type Features = Vec<Tensor<2>>;

    /// All items of one prompt belong in one call: chunks shorter than a second are padded to the longest chunk of the call.
    fn encode(&self, items: Vec<Tensor<2>>) -> Result<Encoded> {
        self.encode_with(&items, &mut ())
    }
}
