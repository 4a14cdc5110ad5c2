use std::path::PathBuf;
use std::sync::Arc;

use aut_encoder::AutEncoder;
use burn::tensor::Tensor;
use checkpoint::{MemoryEstimate, Weights};
use code2wav::Code2Wav;
use moe_talker::Talker;
use moe_thinker::Thinker;
use mtp::CodePredictor;
use nn::HostEngine;
use omni_core::{Dtype, Error, ModalityEncoder, PlaceKind, Result, Vocoder};
use vision_encoder::{PixelPatches, VisionEncoder};

use super::device::Device;
use super::memory_check;
use super::origin::Origin;
use super::token_check;
use crate::Omni;
use crate::config::{Component, OmniConfig};
use crate::model::{
    AnyAudioEncoder, AnyVisionEncoder, AnyVocoder, Encoders, GenerationConfig, Model, SpeechParts, image_bounds,
};
use crate::output::Pace;
use crate::prompt::{ChatTemplate, Tokenizer};
use crate::schedule::{Admission, Batches, CpuPool, Gate};

/// Loads an [`Omni`] from a checkpoint directory.
///
/// ```no_run
/// use qwen3_omni::{Device, Omni};
///
/// let omni = Omni::builder("/models/Qwen3-Omni-30B-A3B-Instruct")
///     .device(Device::cuda(0))
///     .max_answers(4)
///     .progress(|loading| eprint!("\r{} of {} MB", loading.bytes / 1_000_000, loading.total / 1_000_000))
///     .load()?;
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[must_use]
pub struct OmniBuilder {
    directory: PathBuf,
    adapters: Vec<PathBuf>,
    device: Device,
    dtype: Option<Dtype>,
    text_only: bool,
    without_media: bool,
    audio_window: Option<usize>,
    max_answers: usize,
    threads: Option<usize>,
    memory_limit: Option<u64>,
    random_weights: Option<u64>,
    progress: Option<Box<dyn FnMut(Loading) + Send>>,
    plugged: Plugged,
}

impl std::fmt::Debug for OmniBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OmniBuilder")
            .field("directory", &self.directory)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Parts supplied by the application, in place of the checkpoint's.
#[derive(Default)]
struct Plugged {
    audio: Option<Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>>,
    vision: Option<Box<dyn ModalityEncoder<Features = Vec<PixelPatches>>>>,
    vocoder: Option<Box<dyn Vocoder>>,
}

/// Progress of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading {
    /// Bytes of weights read, or drawn, so far.
    pub bytes: usize,
    /// Bytes of weights to read, or to draw.
    pub total: usize,
}

impl Omni {
    /// Configures the loading of a checkpoint directory in Hugging Face layout.
    pub fn builder(directory: impl Into<PathBuf>) -> OmniBuilder {
        OmniBuilder::new(directory.into())
    }
}

impl OmniBuilder {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            adapters: Vec::new(),
            device: Device::Cpu,
            dtype: None,
            text_only: false,
            without_media: false,
            audio_window: None,
            max_answers: 8,
            threads: None,
            memory_limit: None,
            random_weights: None,
            progress: None,
            plugged: Plugged::default(),
        }
    }

    /// Adds an adapter (LoRA) in PEFT's form: a directory with `adapter_config.json` and `adapter_model.safetensors`, as PEFT and
    /// `qwen3-omni-train` write them. Called again, it adds another one.
    ///
    /// Adapters are merged while the weights are read: `W + (α / r) B A`, rounded to the number type on disk. Answers are as fast as
    /// without them. On the CPU, too, changed matrices are held in memory instead of in the mapped file. Any part can be adapted: thinker
    /// with its experts, encoders, talker, code predictor, vocoder. Quantised matrices cannot: merge with `weights-tools merge`, then
    /// quantise.
    ///
    /// ```no_run
    /// use qwen3_omni::{GenerateOptions, Message, Omni};
    ///
    /// let omni = Omni::builder("/models/Qwen3-Omni-30B-A3B-Instruct").adapter("tuned/step-000200").load()?;
    /// let question = [Message::user().text("What is the sea?")];
    /// println!("{}", omni.generate(&question, &GenerateOptions::default())?.text);
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    pub fn adapter(mut self, directory: impl Into<PathBuf>) -> Self {
        self.adapters.push(directory.into());
        self
    }

    /// Sets the device; the CPU by default.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Sets the number type of the computation. The default is f32 on wgpu, bf16 on CUDA, and on the CPU bf16 if the
    /// checkpoint's config names it, otherwise f32.
    ///
    /// On the CPU matrices stay as they are stored and activations are f32 in any case. There bf16 means that GEMM of many rows
    /// rounds both sides to bf16 where the processor is faster at that, that KV caches are bf16, and that matrices stored in f32
    /// become bf16.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Loads no talker, code predictor and vocoder: less memory, no speech.
    pub fn text_only(mut self) -> Self {
        self.text_only = true;
        self
    }

    /// Loads no audio and vision encoders: less memory, but prompts hold only text.
    pub fn without_media(mut self) -> Self {
        self.without_media = true;
        self
    }

    /// Sets the attention window of the audio encoder, 1 to 8 seconds; the checkpoint's, 8, by default.
    pub fn audio_window(mut self, seconds: usize) -> Self {
        self.audio_window = Some(seconds);
        self
    }

    /// Sets how many answers may be generated at once; 8 by default. One more is refused with [`Error::Busy`]. On the CPU,
    /// concurrent answers are batched: they share each reading of the weights.
    pub fn max_answers(mut self, answers: usize) -> Self {
        self.max_answers = answers;
        self
    }

    /// Gives the model a pool of `threads` CPU threads of its own. By default it uses the pool of the process (`rayon`'s global
    /// one), with a thread per processor. Stages wait in further threads, which compute nothing.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets the bytes that the weights may take, instead of what the system, or on CUDA the driver, reports as free.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Replaces the checkpoint's audio encoder, which is then not loaded. The encoder gets the log-mel frames `[T, M]` of all sound
    /// of a conversation in one call. From each it must make as many rows as the checkpoint's encoder would, in the thinker's
    /// width.
    pub fn audio_encoder(mut self, encoder: impl ModalityEncoder<Features = Vec<Tensor<2>>> + 'static) -> Self {
        self.plugged.audio = Some(Box::new(encoder));
        self
    }

    /// Replaces the checkpoint's vision encoder, which is then not loaded. The encoder must make one row per merge block of
    /// patches, in the thinker's width; deepstack features may be missing.
    pub fn vision_encoder(mut self, encoder: impl ModalityEncoder<Features = Vec<PixelPatches>> + 'static) -> Self {
        self.plugged.vision = Some(Box::new(encoder));
        self
    }

    /// Replaces the checkpoint's vocoder, which is then not loaded.
    pub fn vocoder(mut self, vocoder: impl Vocoder + 'static) -> Self {
        self.plugged.vocoder = Some(Box::new(vocoder));
        self
    }

    /// Draws random weights of the right shapes on the device, to measure speed and memory without a checkpoint. Only config and
    /// tokenizer are read from the directory, no shards. Linear layers that the config's `quantization_config` names are packed.
    ///
    /// The same seed gives the same model on the same device, as long as nothing else draws random numbers there while it is
    /// loaded.
    pub fn random_weights(mut self, seed: u64) -> Self {
        self.random_weights = Some(seed);
        self
    }

    /// Sets a callback for progress while weights are read.
    pub fn progress(mut self, callback: impl FnMut(Loading) + Send + 'static) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// The parts of the checkpoint that are loaded.
    fn components(&self, config: &OmniConfig) -> Vec<Component> {
        let (media, speaks) = (!self.without_media, !self.text_only && config.top.enable_audio_output);
        let own = [
            (Component::Thinker, true),
            (Component::AudioEncoder, media && self.plugged.audio.is_none()),
            (Component::VisionEncoder, media && self.plugged.vision.is_none()),
            (Component::Talker, speaks),
            (Component::CodePredictor, speaks),
            (Component::Code2Wav, speaks && self.plugged.vocoder.is_none()),
        ];
        own.into_iter().filter(|(_, own)| *own).map(|(component, _)| component).collect()
    }

    fn compute_dtype(&self, config: &OmniConfig) -> Dtype {
        self.dtype.unwrap_or_else(|| self.device.dtype_for(config.top.dtype.as_deref()))
    }

    /// Estimates the memory that the model takes between answers: its weights, and the buffers that each part keeps for its next step.
    /// KV caches and activations of running answers come on top, and on a CPU the copies of rows and weights that each thread keeps from its
    /// largest product. No weight is read.
    ///
    /// ```no_run
    /// let needed = qwen3_omni::Omni::builder("model").text_only().memory_estimate()?;
    /// println!("{} MB, {} MB of them read from the file as needed", needed.total() >> 20, needed.mapped >> 20);
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Config`] or [`Error::Weights`] for a directory that is not a checkpoint.
    pub fn memory_estimate(&self) -> Result<MemoryEstimate> {
        let checkpoint = Origin::open(&self.directory, self.random_weights, &self.adapters)?;
        let (components, dtype) = (self.components(checkpoint.config()), self.compute_dtype(checkpoint.config()));
        let place = if self.device.is_cpu() { PlaceKind::Host } else { PlaceKind::Device };
        Ok(memory_estimate(&checkpoint, &components, place, dtype))
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Before any weight is read: [`Error::Io`], [`Error::Config`] or [`Error::Weights`] naming every missing, unexpected
    /// and mismatched tensor, or what of an adapter does not fit; [`Error::Device`] if the device is absent or lacks the number
    /// type; [`Error::Memory`] if there is too little for the weights; [`Error::Request`] for 0 threads, 0 answers, an adapter
    /// of random weights, or a vocoder whose frames have no samples. With [`OmniBuilder::random_weights`] no tensor can be missing.
    pub fn load(self) -> Result<Omni> {
        if self.max_answers == 0 {
            return Err(Error::Request("max_answers is 0, expected at least 1".into()));
        }
        self.plugged.vocoder.as_deref().map_or(Ok(()), check_vocoder)?;
        let pool = CpuPool::new(self.threads)?;
        let checkpoint = Origin::open(&self.directory, self.random_weights, &self.adapters)?;
        let components = self.components(checkpoint.config());
        checkpoint.check(&components)?;
        let config = checkpoint.config().clone();
        let speaks = components.contains(&Component::Talker);
        let tokenizer = Tokenizer::from_directory(&self.directory)?;
        token_check::check(&config, &tokenizer)?;
        let template = ChatTemplate::from_directory(&self.directory)?;
        let generation = GenerationConfig::read(&self.directory, &config)?;
        let image_bounds = image_bounds(&self.directory)?;
        let dtype = self.compute_dtype(&config);
        let place = self.device.place(dtype)?;
        let estimate = memory_estimate(&checkpoint, &components, place.kind(), dtype);
        memory_check::check(estimate, self.memory_limit.or_else(|| self.device.free_memory()))?;
        let plugged = self.plugged;
        let mut weights = checkpoint.weights(&place, dtype);
        if let Some(mut callback) = self.progress {
            let total = checkpoint.bytes(&components, place.kind(), dtype);
            weights = weights.with_progress(move |done| callback(Loading { bytes: done.bytes, total }));
        }
        let _span = tracing::info_span!("load", directory = %self.directory.display(), %dtype).entered();
        let dtype = weights.tensor_dtype();
        let thinker = Thinker::load(&weights, &config.thinker, config.accept_hidden_layer())?;
        let encoders = match self.without_media {
            true => None,
            false => Some(Encoders {
                audio: load_audio_encoder(&weights, &config, plugged.audio, self.audio_window)?,
                vision: match plugged.vision {
                    Some(encoder) => AnyVisionEncoder::Custom(encoder),
                    None => AnyVisionEncoder::Builtin(VisionEncoder::load(&weights, &config.vision)?),
                },
            }),
        };
        let speech = speaks.then(|| load_speech(&weights, &config, plugged.vocoder)).transpose()?;
        let (batches, admission) = (Batches::new(thinker.engine().batches()), Admission::new(self.max_answers));
        let device = place.device().clone();
        let model = Model {
            config,
            tokenizer,
            template,
            generation,
            image_bounds,
            device,
            dtype,
            thinker,
            encoders,
            speech,
            batches,
            admission,
            encoding: Gate::default(),
            pool,
            pace: Pace::default(),
        };
        Ok(Omni::new(Arc::new(model)))
    }
}

/// Adds the buffers that each part keeps to the estimate of the weights.
fn memory_estimate(checkpoint: &Origin, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryEstimate {
    let mut estimate = checkpoint.memory_estimate(components, place, dtype);
    if place == PlaceKind::Host {
        estimate.resident += (components.len() * HostEngine::KEPT_BYTES) as u64;
    }
    estimate
}

fn load_audio_encoder(
    weights: &Weights,
    config: &OmniConfig,
    plugged: Option<Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>>,
    window: Option<usize>,
) -> Result<AnyAudioEncoder> {
    let encoder = match plugged {
        Some(encoder) => return Ok(AnyAudioEncoder::Custom(encoder)),
        None => AutEncoder::load(weights, &config.audio)?,
    };
    Ok(AnyAudioEncoder::Builtin(match window {
        Some(seconds) => encoder.with_window(seconds)?,
        None => encoder,
    }))
}

/// Refuses a vocoder by which no time could be told.
fn check_vocoder(vocoder: &dyn Vocoder) -> Result<()> {
    let (rate, frame) = (vocoder.sample_rate(), vocoder.samples_per_frame());
    if rate > 0 && frame > 0 {
        return Ok(());
    }
    let reason = format!("the vocoder has {rate} samples a second and {frame} a frame, expected at least 1 each");
    Err(Error::Request(reason))
}

fn load_speech(weights: &Weights, config: &OmniConfig, plugged: Option<Box<dyn Vocoder>>) -> Result<SpeechParts> {
    Ok(SpeechParts {
        talker: Talker::load(weights, config.talker()?, config.turns)?,
        code_predictor: CodePredictor::load(weights, config.code_predictor()?)?,
        vocoder: match plugged {
            Some(vocoder) => AnyVocoder::Custom(vocoder),
            None => AnyVocoder::Builtin(Code2Wav::load(weights, config.code2wav()?)?),
        },
    })
}
