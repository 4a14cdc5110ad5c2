use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use checkpoint::{Checkpoint, Weights};
use nn::{AnyEngine, Engine, admitted, on_engine};
use omni_core::{Dtype, Error, Place, Result};

use crate::config::{MimiConfig, PadMode};
use crate::conv::{CausalConv, ConvSpec, Numbering};
use crate::engine::MimiEngine;
use crate::history::{History, Stream, rows};
use crate::probe::MimiProbe;
use crate::quantizer::SplitQuantizer;
use crate::seanet::SeaNet;
use crate::transformer::{Transformer, TransformerState};

/// Frames whose samples are computed at once, which bounds the memory of a long recording.
const FRAMES_PER_STEP: usize = 16;

/// SEANet, transformer, downsampling and quantiser.
#[derive(Module, Debug)]
pub struct MimiEncoder {
    encoder: SeaNet,
    encoder_transformer: Transformer,
    downsample: CausalConv,
    quantizer: SplitQuantizer,
    convolutions: usize,
    codebooks: usize,
    #[module(skip)]
    config: MimiConfig,
    #[module(skip)]
    engine: AnyEngine,
}

/// What one stream carries: inputs that each convolution still needs, and the transformer's last keys and values.
#[derive(Debug, Clone)]
pub struct MimiState {
    histories: Vec<History>,
    transformer: TransformerState,
}

/// Next samples of one stream.
#[derive(Debug)]
pub struct MimiRun<'a> {
    /// The stream's state.
    pub state: &'a mut MimiState,
    /// Samples of any number, none included, at the model's sample rate.
    pub samples: &'a [f32],
    /// Whether the stream ends with them: a last frame that is not full is padded, and the state begins anew.
    pub last: bool,
}

impl MimiEncoder {
    /// Loads the encoder from a checkpoint in the layout of `kyutai/mimi`.
    ///
    /// # Errors
    /// [`Error::Config`] for its config, and those of [`Checkpoint::check`] for its tensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint, place: &Place) -> Result<Self> {
        let config: MimiConfig = checkpoint.config().section()?;
        checkpoint.load(place, Dtype::F32, in_scope, |weights| Self::load(weights, &config))
    }

    /// Reads the encoder's tensors; `weights` stands at the checkpoint's root.
    ///
    /// # Errors
    /// The errors of [`Weights::tensor`]; [`Error::Unsupported`] for a computation in another type than f32.
    pub fn load(weights: &Weights, config: &MimiConfig) -> Result<Self> {
        let dtype = weights.compute_dtype();
        if dtype != Dtype::F32 {
            return Err(Error::unsupported(format!("Mimi's encoder in {dtype:?}: its codes are chosen in f32 only")));
        }
        let (numbering, width, stride) = (Numbering::default(), config.hidden_size, config.downsampling());
        let encoder = SeaNet::load(&weights.at("encoder"), config, &numbering)?;
        // Whatever the config says of the SEANet's padding.
        let downsample = ConvSpec::new(width, width, 2 * stride, PadMode::Replicate);
        let downsample = ConvSpec { stride, bias: false, ..downsample };
        Ok(Self {
            encoder,
            encoder_transformer: Transformer::load(&weights.at("encoder_transformer"), config)?,
            downsample: CausalConv::load(&weights.at("downsample"), downsample, &numbering)?,
            quantizer: SplitQuantizer::load(&weights.at("quantizer"), config)?,
            convolutions: numbering.count(),
            codebooks: config.num_quantizers,
            config: config.clone(),
            engine: AnyEngine::of(weights),
        })
    }

    /// Makes codes of the first `codebooks` codebooks only; by default of all.
    ///
    /// # Errors
    /// [`Error::Request`] for more than there are, or fewer than the semantic quantiser has.
    pub fn with_codebooks(mut self, codebooks: usize) -> Result<Self> {
        let (least, most) = (self.quantizer.semantic(), self.quantizer.codebooks());
        if !(least..=most).contains(&codebooks) {
            let reason = format!("codes of {codebooks} codebooks were asked for: this encoder makes {least} to {most}");
            return Err(Error::Request(reason));
        }
        self.codebooks = codebooks;
        Ok(self)
    }

    /// Number of codes per frame, `Q`.
    pub fn codebooks(&self) -> usize {
        self.codebooks
    }

    /// Codes per codebook.
    pub fn codebook_size(&self) -> usize {
        self.config.codebook_size
    }

    /// Samples per second that the encoder was trained with.
    pub fn sample_rate(&self) -> usize {
        self.config.sampling_rate
    }

    /// Samples per codec frame.
    pub fn samples_per_frame(&self) -> usize {
        self.config.samples_per_frame()
    }

    /// A fresh stream.
    pub fn start(&self) -> MimiState {
        let histories = vec![History::None; self.convolutions];
        MimiState { histories, transformer: self.encoder_transformer.start() }
    }

    /// Encodes a whole recording.
    ///
    /// # Shapes
    /// `[N]` → `[F, Q]`, `F` being `N / samples_per_frame` rounded up.
    ///
    /// # Errors
    /// The errors of [`MimiEncoder::forward`].
    pub fn encode(&self, samples: &[f32]) -> Result<Vec<Vec<u32>>> {
        self.forward(vec![MimiRun { state: &mut self.start(), samples, last: true }]).remove(0)
    }

    /// Encodes the next samples of one stream, and returns the frames that they complete.
    ///
    /// # Shapes
    /// `[N]` → `[F, Q]`.
    ///
    /// # Errors
    /// The errors of [`MimiEncoder::forward`].
    pub fn encode_step(&self, state: &mut MimiState, samples: &[f32]) -> Result<Vec<Vec<u32>>> {
        self.forward(vec![MimiRun { state, samples, last: false }]).remove(0)
    }

    /// Ends a stream: returns the frame of the samples that fill none, if there are any, and lets the state begin anew.
    ///
    /// # Shapes
    /// → `[0 or 1, Q]`.
    ///
    /// # Errors
    /// The errors of [`MimiEncoder::forward`].
    pub fn finish(&self, state: &mut MimiState) -> Result<Vec<Vec<u32>>> {
        self.forward(vec![MimiRun { state, samples: &[], last: true }]).remove(0)
    }

    /// Encodes the next samples of any number of streams, reading each weight once for all of them. Returns for each stream the
    /// frames that its samples complete: as many as a whole encode of all its samples so far has before its last, padded one.
    ///
    /// # Shapes
    /// `[N]` of each → `[F, Q]` of each.
    ///
    /// # Errors
    /// For each stream on its own: [`Error::Media`] for samples that are NaN or infinite, which leaves its state as it was;
    /// [`Error::NotFinite`] if its latents are.
    pub fn forward(&self, runs: Vec<MimiRun>) -> Vec<Result<Vec<Vec<u32>>>> {
        let encoded = admitted(runs, check, |runs| on_engine!(self.engine, |e| self.run(e, runs, &mut None)));
        encoded.into_iter().map(|run| run.and_then(|frames| frames)).collect()
    }

    /// Encodes a whole recording, showing every part to `probe`.
    ///
    /// # Errors
    /// The errors of [`MimiEncoder::forward`].
    pub fn encode_with(&self, samples: &[f32], probe: &mut dyn MimiProbe) -> Result<Vec<Vec<u32>>> {
        let run = MimiRun { state: &mut self.start(), samples, last: true };
        check(&run)?;
        on_engine!(self.engine, |e| self.run(e, vec![run], &mut Some(probe))).remove(0)
    }

    /// Encodes the runs' samples, some frames at a time.
    fn run<E: MimiEngine>(
        &self,
        e: &E,
        mut runs: Vec<MimiRun>,
        probe: &mut Option<&mut dyn MimiProbe>,
    ) -> Vec<Result<Vec<Vec<u32>>>> {
        let size = FRAMES_PER_STEP * self.samples_per_frame();
        let steps = |run: &MimiRun| run.samples.len().div_ceil(size).max(1);
        let mut frames: Vec<_> = runs.iter().map(|_| Ok(Vec::new())).collect();
        for step in 0..runs.iter().map(steps).max().unwrap_or(0) {
            let pieces = runs.iter_mut().map(|run| {
                let (begin, end) = (step * size, (step + 1) * size);
                let samples = &run.samples[begin.min(run.samples.len())..end.min(run.samples.len())];
                MimiRun { last: run.last && step + 1 == steps(run), samples, state: &mut *run.state }
            });
            let new = self.step(e, pieces.collect(), probe);
            frames.iter_mut().zip(new).for_each(|(frames, new)| append(frames, new));
        }
        runs.iter_mut().filter(|run| run.last).for_each(|run| *run.state = self.start());
        frames
    }

    /// Encodes a few frames of each run.
    fn step<E: MimiEngine>(
        &self,
        e: &E,
        mut runs: Vec<MimiRun>,
        probe: &mut Option<&mut dyn MimiProbe>,
    ) -> Vec<Result<Vec<Vec<u32>>>> {
        let samples = runs.iter().flat_map(|run| run.samples).copied().collect::<Vec<f32>>();
        let states = runs.iter_mut().map(|run| {
            let MimiState { histories, transformer } = &mut *run.state;
            (Stream { histories, rows: run.samples.len(), last: run.last }, transformer)
        });
        let (mut streams, mut transformers): (Vec<_>, Vec<_>) = states.unzip();
        match self.latents(e, samples, &mut streams, &mut transformers, probe) {
            Some(latents) => self.codes(e, latents, &streams),
            None => streams.iter().map(|_| Ok(Vec::new())).collect(),
        }
    }

    /// Latents `[F, D]` of all streams; `None` if no frame is complete.
    fn latents<E: MimiEngine>(
        &self,
        e: &E,
        samples: Vec<f32>,
        streams: &mut [Stream],
        states: &mut [&mut TransformerState],
        probe: &mut Option<&mut dyn MimiProbe>,
    ) -> Option<E::Rows> {
        let x = (!samples.is_empty()).then(|| self.samples(e, samples)); // [N, 1]
        let x = self.encoder.forward(e, x, streams); // [T, D]
        show(e, probe, "conv", x.as_ref());
        let x = x.map(|x| {
            let active = states.iter_mut().zip(&*streams).filter(|(_, stream)| stream.rows > 0);
            let mut active: Vec<_> = active.map(|(state, stream)| (&mut **state, stream.rows)).collect();
            self.encoder_transformer.forward(e, x, &mut active)
        });
        show(e, probe, "transformer", x.as_ref());
        let latents = e.conv(x, &self.downsample, streams); // [F, D]
        show(e, probe, "latents", latents.as_ref());
        latents
    }

    fn samples<E: Engine>(&self, e: &E, samples: Vec<f32>) -> E::Rows {
        let (device, _) = self.engine.tensors();
        let count = samples.len();
        e.rows(&[&Tensor::from_data(TensorData::new(samples, [count, 1]), &device)])
    }

    /// Codes of the latents' frames, stream by stream.
    fn codes<E: MimiEngine>(&self, e: &E, mut latents: E::Rows, streams: &[Stream]) -> Vec<Result<Vec<Vec<u32>>>> {
        let frames = rows(streams);
        let ids = e.read_ids(&self.quantizer.encode(e, &mut latents, self.codebooks)); // [Q, F]
        let width = e.shape(&latents)[1];
        let finite: Vec<bool> =
            e.values(latents).chunks_exact(width).map(|row| row.iter().all(|x| x.is_finite())).collect();
        let frame = |frame: usize| ids.iter().skip(frame).step_by(frames).copied().collect::<Vec<u32>>();
        let mut start = 0;
        let each = streams.iter().map(|stream| {
            let range = start..start + stream.rows;
            start = range.end;
            match finite[range.clone()].iter().all(|finite| *finite) {
                true => Ok(range.map(frame).collect()),
                false => Err(Error::NotFinite { stage: "Mimi encoder" }),
            }
        });
        each.collect()
    }
}

/// Whether the encoder reads a tensor of this name.
fn in_scope(name: &str) -> bool {
    let parts = ["encoder.", "encoder_transformer.", "downsample.", "quantizer."];
    let unread = ["output_proj.weight", "codebook.initialized"];
    parts.iter().any(|part| name.starts_with(part)) && !unread.iter().any(|end| name.ends_with(end))
}

fn check(run: &MimiRun) -> Result<()> {
    match run.samples.iter().position(|sample| !sample.is_finite()) {
        Some(index) => {
            let reason = format!("sample {} is {}, expected finite numbers", index + 1, run.samples[index]);
            Err(Error::media("sound", reason))
        }
        None => Ok(()),
    }
}

/// Appends the frames of a step; the first error stays.
fn append(frames: &mut Result<Vec<Vec<u32>>>, new: Result<Vec<Vec<u32>>>) {
    match (frames.as_mut(), new) {
        (Ok(frames), Ok(new)) => frames.extend(new),
        (Ok(_), Err(error)) => *frames = Err(error),
        (Err(_), _) => {}
    }
}

/// Shows the next rows of a part, if there are any.
fn show<E: Engine>(e: &E, probe: &mut Option<&mut dyn MimiProbe>, name: &str, x: Option<&E::Rows>) {
    if let (Some(probe), Some(x)) = (probe, x) {
        probe.part(name, &e.tensor(x, 0..e.shape(x)[0]));
    }
}
