use burn::module::Module;
use burn::tensor::Tensor;
use checkpoint::{Checkpoint, Weights};
use nn::{AnyEngine, Embedding, Engine, KvCache, admitted, on_engine};
use omni_core::{Dtype, Error, Place, Result};

use crate::config::Code2WavConfig;
use crate::conv::{CausalConv, ConvSpec};
use crate::convnext::Upsample;
use crate::decoder_block::{BlockState, DecoderBlock};
use crate::engine::VocoderEngine;
use crate::history::History;
use crate::pre_transformer::{PreTransformer, PreTransformerState};
use crate::probe::{VocoderProbe, show_rows};
use crate::snake::Snake;

/// Code embedding, transformer, upsampling stages and convolutional decoder.
#[derive(Module, Debug)]
pub struct Code2Wav {
    code_embedding: Embedding,
    pre_transformer: PreTransformer,
    upsample: Vec<Upsample>,
    entrance: CausalConv,
    blocks: Vec<DecoderBlock>,
    act: Snake,
    exit: CausalConv,
    codebooks: usize,
    codebook_size: usize,
    samples_per_frame: usize,
    lookahead: usize,
    #[module(skip)]
    engine: AnyEngine,
}

/// What one stream carries: the transformer's last keys and values, the left history of each causal convolution, and
/// the last input of each transposed one.
#[derive(Debug, Clone)]
pub struct VocoderState {
    pre_transformer: PreTransformerState,
    upsample: Vec<History>,
    entrance: History,
    blocks: Vec<BlockState>,
    exit: History,
}

impl VocoderState {
    /// Frames taken so far.
    pub fn frames(&self) -> usize {
        self.pre_transformer.frames
    }
}

/// New frames of one stream.
#[derive(Debug)]
pub struct VocoderRun<'a> {
    /// The stream's state.
    pub state: &'a mut VocoderState,
    /// `[F, Q]`: the codes of each frame.
    pub frames: &'a [Vec<u32>],
}

impl Code2Wav {
    /// Loads the vocoder alone, computed in `dtype`.
    ///
    /// # Errors
    /// [`Error::Config`] for its section of the config, and those of [`Checkpoint::check`] for its tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place, dtype: Dtype) -> Result<Self> {
        let config: Code2WavConfig = checkpoint.config().section()?;
        let in_scope = |name: &str| name.starts_with("code2wav.");
        checkpoint.load(place, dtype, in_scope, |weights| Self::load(weights, &config))
    }

    /// Reads `code2wav.*`; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
    pub fn load(weights: &Weights, config: &Code2WavConfig) -> Result<Self> {
        Self::load_parts(&weights.at("code2wav"), config)
    }

    /// Reads the vocoder's tensors; `weights` stands at its root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`].
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
            codebooks: config.num_quantizers,
            codebook_size: config.codebook_size,
            samples_per_frame: config.samples_per_frame(),
            lookahead: lookahead(&config.upsample_rates),
            engine: AnyEngine::of(weights),
        })
    }

    /// Codebooks `Q`.
    pub fn codebooks(&self) -> usize {
        self.codebooks
    }

    /// Codes of one codebook.
    pub fn codebook_size(&self) -> usize {
        self.codebook_size
    }

    /// Samples per frame (1920 in the released model).
    pub fn samples_per_frame(&self) -> usize {
        self.samples_per_frame
    }

    /// Samples at the end of a decode that would need a further frame (555 in the released model).
    pub fn lookahead(&self) -> usize {
        self.lookahead
    }

    /// A fresh stream.
    pub fn start(&self) -> VocoderState {
        self.start_with(KvCache::default(), History::None)
    }

    /// A stream that ends with its first step: it keeps nothing.
    fn start_once(&self) -> VocoderState {
        self.start_with(KvCache::discarding(), History::Discard)
    }

    fn start_with(&self, cache: KvCache, history: History) -> VocoderState {
        VocoderState {
            pre_transformer: self.pre_transformer.start(cache),
            upsample: vec![history.clone(); self.upsample.len()],
            entrance: history.clone(),
            blocks: vec![BlockState::new(&history); self.blocks.len()],
            exit: history,
        }
    }

    /// Decodes new frames of several streams to samples between −1 and 1; each weight is read once for all streams.
    ///
    /// Convolutions give each stream exactly the numbers it gets alone. In host memory, linear layers use another GEMM from nine
    /// rows on, so samples may differ by the rounding of bf16 there, as they do when one stream comes in other pieces.
    ///
    /// # Shapes
    /// `F` frames of a stream, at least 1, give it `F * samples_per_frame` samples; the first step of a stream `lookahead` less.
    ///
    /// # Errors
    /// Separately for each stream: [`Error::Request`] for no frames, another number of codebooks, or a code outside its codebook;
    /// its state is unchanged.
    pub fn forward(&self, runs: Vec<VocoderRun>) -> Vec<Result<Vec<f32>>> {
        let check = |run: &VocoderRun| self.check(run.frames);
        admitted(runs, check, |runs| on_engine!(self.engine, |e| e.samples(self.run(e, runs, None))))
    }

    /// Decodes whole streams to waves, unclamped: what a loss compares, since clamped samples have no gradient.
    ///
    /// # Shapes
    /// `[F, Q]` codes of each stream → `[F * samples_per_frame - lookahead]`.
    ///
    /// # Errors
    /// The errors of [`Code2Wav::forward`]; the first one of any stream.
    pub fn waves(&self, streams: &[Vec<Vec<u32>>]) -> Result<Vec<Tensor<1>>> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        streams.iter().try_for_each(|frames| self.check(frames))?;
        let mut states: Vec<VocoderState> = streams.iter().map(|_| self.start_once()).collect();
        let runs = states.iter_mut().zip(streams).map(|(state, frames)| VocoderRun { state, frames });
        let runs = runs.collect();
        Ok(on_engine!(self.engine, |e| e.waves(self.run(e, runs, None))))
    }

    /// Decodes whole streams as [`Code2Wav::waves`] does, from the mean of each frame's code embeddings: how a quantiser that is trained
    /// with the vocoder hands over what it chose, with gradients.
    ///
    /// # Shapes
    /// `[F, D]` of each stream → `[F * samples_per_frame - lookahead]`.
    ///
    /// # Errors
    /// [`Error::Request`] for a stream without frames, or of another width.
    pub fn waves_of_means(&self, streams: &[Tensor<2>]) -> Result<Vec<Tensor<1>>> {
        if streams.is_empty() {
            return Ok(Vec::new());
        }
        let expected = self.code_embedding.width();
        if let Some([frames, width]) = streams.iter().map(Tensor::dims).find(|dims| dims[0] == 0 || dims[1] != expected)
        {
            let reason = format!("embeddings [{frames}, {width}] for the vocoder, expected 1 or more of {expected}");
            return Err(Error::Request(reason));
        }
        let mut states: Vec<VocoderState> = streams.iter().map(|_| self.start_once()).collect();
        let states = states.iter_mut().collect();
        let frames = streams.iter().map(|stream| stream.dims()[0]).collect();
        Ok(on_engine!(self.engine, |e| {
            let x = e.rows(&streams.iter().collect::<Vec<_>>());
            e.waves(self.behind_embedding(e, x, states, frames, &mut None))
        }))
    }

    /// Decodes one step of one stream, showing every part to `probe`.
    ///
    /// # Errors
    /// The errors of [`Code2Wav::forward`].
    pub fn forward_with(&self, run: VocoderRun, probe: &mut dyn VocoderProbe) -> Result<Vec<f32>> {
        self.check(run.frames)?;
        Ok(on_engine!(self.engine, |e| e.samples(self.run(e, vec![run], Some(probe)))).remove(0))
    }

    fn check(&self, frames: &[Vec<u32>]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Request(reason));
        if frames.is_empty() {
            return refuse("no codec frames were given to the vocoder".into());
        }
        for (index, frame) in frames.iter().enumerate() {
            let (frame_number, expected, size) = (index + 1, self.codebooks, self.codebook_size);
            if frame.len() != expected {
                let found = frame.len();
                return refuse(format!("codec frame {frame_number} has {found} codes, expected {expected}"));
            }
            if let Some(book) = frame.iter().position(|code| *code as usize >= size) {
                let code = frame[book];
                return refuse(format!(
                    "codec frame {frame_number}: code {code} of codebook {book} is none of its {size} codes"
                ));
            }
        }
        Ok(())
    }

    fn run<E: VocoderEngine>(
        &self,
        e: &E,
        runs: Vec<VocoderRun>,
        mut probe: Option<&mut dyn VocoderProbe>,
    ) -> E::Signal {
        // One table holds all codebooks after one another.
        let of_frame = |frame: &Vec<u32>| {
            frame.iter().enumerate().map(|(book, code)| (book * self.codebook_size) as u32 + code).collect::<Vec<_>>()
        };
        let ids: Vec<u32> = runs.iter().flat_map(|run| run.frames.iter().flat_map(of_frame)).collect();
        let x = e.embed_mean(&self.code_embedding, &ids, self.codebooks); // [N, D]
        show_rows(e, &mut probe, "embedding_mean", 0, &x, false);
        let (states, frames) = runs.into_iter().map(|run| (run.state, run.frames.len())).unzip();
        self.behind_embedding(e, x, states, frames, &mut probe)
    }

    /// Everything behind the embedding, on rows `[N, D]` of streams one below another, given by their states and numbers of frames.
    fn behind_embedding<E: VocoderEngine>(
        &self,
        e: &E,
        x: E::Rows,
        mut states: Vec<&mut VocoderState>,
        frames: Vec<usize>,
        probe: &mut Option<&mut dyn VocoderProbe>,
    ) -> E::Signal {
        let (x, times) = self.upsampled(e, x, (&mut states, frames), probe); // [N, D]
        let whole = states.iter().all(|state| state.entrance.discards());
        let x = e.signal(x, &times, whole); // [D, sum T]
        let mut histories: Vec<_> = states.iter_mut().map(|state| &mut state.entrance).collect();
        let mut x = e.conv(&x, &self.entrance, None, &mut histories);
        show(e, probe, 0, &x);
        for (index, block) in self.blocks.iter().enumerate() {
            let mut states: Vec<_> = states.iter_mut().map(|state| &mut state.blocks[index]).collect();
            x = block.forward(e, x, &mut states);
            show(e, probe, index + 1, &x);
        }
        if probe.is_some() {
            show(e, probe, self.blocks.len() + 1, &e.activated(&x, &self.act));
        }
        let mut histories: Vec<_> = states.iter_mut().map(|state| &mut state.exit).collect();
        let x = e.conv(&x, &self.exit, Some(&self.act), &mut histories); // [1, sum N]
        show(e, probe, self.blocks.len() + 2, &x);
        x
    }

    /// Transformer and upsampling: rows `[sum T, D]` of all streams, one below another, and the `T` of each.
    fn upsampled<E: VocoderEngine>(
        &self,
        e: &E,
        x: E::Rows,
        (states, mut times): (&mut [&mut VocoderState], Vec<usize>),
        probe: &mut Option<&mut dyn VocoderProbe>,
    ) -> (E::Rows, Vec<usize>) {
        let streams = states.iter_mut().zip(&times).map(|(state, frames)| (&mut state.pre_transformer, *frames));
        let mut x = self.pre_transformer.forward(e, x, &mut streams.collect::<Vec<_>>(), probe);
        show_rows(e, probe, "norm", 0, &x, false);
        for (index, stage) in self.upsample.iter().enumerate() {
            times.iter_mut().for_each(|time| *time *= stage.factor());
            let streams = states.iter_mut().zip(&times).map(|(state, time)| (&mut state.upsample[index], *time));
            x = stage.forward(e, x, &mut streams.collect::<Vec<_>>(), index, probe);
        }
        (x, times)
    }
}

/// Shows a part of the convolutional decoder.
fn show<E: VocoderEngine>(e: &E, probe: &mut Option<&mut dyn VocoderProbe>, index: usize, x: &E::Signal) {
    if let Some(probe) = probe {
        probe.part("decoder", index, &e.signal_tensor(x));
    }
}

/// Lookahead in samples: each block loses one step of its own input rate.
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
