use std::path::{Path, PathBuf};
use std::sync::Arc;

use aut_encoder::AutEncoder;
use burn::tensor::Tensor;
use checkpoint::{MemoryEstimate, Weights};
use code2wav::Code2Wav;
use media::image::{ImageOptions, PixelBounds};
use moe_talker::Talker;
use moe_thinker::Thinker;
use mtp::CodePredictor;
use nn::HostEngine;
use omni_core::{Dtype, Error, ModalityEncoder, PlaceKind, Result, SamplingOptions, Vocoder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use vision_encoder::{PixelPatches, VisionEncoder};

use crate::omni::{Ears, Encoders, Eyes, Inner, SpeechParts, Voice};
use crate::origin::Origin;
use crate::places::Places;
use crate::stages::Together;
use crate::threads::Threads;
use crate::{ChatTemplate, Component, Device, Omni, OmniConfig, Tokenizer};

/// Loads an [`Omni`] from a checkpoint directory.
pub struct OmniBuilder {
    directory: PathBuf,
    device: Device,
    dtype: Option<Dtype>,
    text_only: bool,
    without_media: bool,
    audio_window: Option<usize>,
    max_answers: usize,
    threads: Option<usize>,
    memory_limit: Option<u64>,
    random_weights: Option<u64>,
    progress: Option<Box<dyn FnMut(Loading)>>,
    plugged: Plugged,
}

/// Parts of third parties that take the place of the checkpoint's own.
#[derive(Default)]
struct Plugged {
    audio: Option<Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>>,
    vision: Option<Box<dyn ModalityEncoder<Features = Vec<PixelPatches>>>>,
    vocoder: Option<Box<dyn Vocoder>>,
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading {
    /// Bytes of weights read, or drawn, so far.
    pub bytes: usize,
    /// Bytes of weights to read, or to draw.
    pub total: usize,
}

/// The talker's settings in `generation_config.json`; the released values where the file is silent.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct GenerationConfig {
    talker_max_new_tokens: usize,
    talker_repetition_penalty: f32,
    talker_temperature: f32,
    talker_top_k: usize,
    talker_top_p: f32,
    eos_token_id: EndIds,
}

/// The ids that end a text: none named, one, or several.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum EndIds {
    #[default]
    Unnamed,
    One(u32),
    Several(Vec<u32>),
}

impl Default for GenerationConfig {
    fn default() -> Self {
        let SamplingOptions { repetition_penalty, temperature, top_k, top_p, .. } = SamplingOptions::talker();
        Self {
            talker_max_new_tokens: 4096,
            talker_repetition_penalty: repetition_penalty,
            talker_temperature: temperature,
            talker_top_k: top_k,
            talker_top_p: top_p,
            eos_token_id: EndIds::Unnamed,
        }
    }
}

impl GenerationConfig {
    fn read(directory: &Path, im_end: u32) -> Result<Self> {
        let path = directory.join("generation_config.json");
        let mut config: Self = read_optional(&path)?;
        if let EndIds::Unnamed = config.eos_token_id {
            config.eos_token_id = EndIds::One(im_end);
        }
        config.talker(0).validate("talker").map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        Ok(config)
    }

    pub(crate) fn talker(&self, seed: u64) -> SamplingOptions {
        SamplingOptions {
            greedy: false,
            temperature: self.talker_temperature,
            top_k: self.talker_top_k,
            top_p: self.talker_top_p,
            repetition_penalty: self.talker_repetition_penalty,
            seed,
        }
    }

    /// Whether this id ends the text.
    pub(crate) fn ends_text(&self, id: u32) -> bool {
        match &self.eos_token_id {
            EndIds::Unnamed => false,
            EndIds::One(end) => *end == id,
            EndIds::Several(ends) => ends.contains(&id),
        }
    }

    pub(crate) fn max_codes(&self) -> usize {
        self.talker_max_new_tokens
    }
}

/// The picture sizes of `preprocessor_config.json`; the released values where the file is silent.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct PreprocessorConfig {
    min_pixels: usize,
    max_pixels: usize,
}

impl Default for PreprocessorConfig {
    fn default() -> Self {
        let PixelBounds { min, max } = ImageOptions::default().bounds;
        Self { min_pixels: min, max_pixels: max }
    }
}

impl PreprocessorConfig {
    fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("preprocessor_config.json");
        let config: Self = read_optional(&path)?;
        let Self { min_pixels, max_pixels } = config;
        if min_pixels > max_pixels || max_pixels == 0 {
            let reason = format!("{min_pixels} min_pixels and {max_pixels} max_pixels contradict each other");
            return Err(Error::Config(format!("{}: {reason}", path.display())));
        }
        Ok(config)
    }

    pub(crate) fn bounds(self) -> PixelBounds {
        PixelBounds { min: self.min_pixels, max: self.max_pixels }
    }
}

/// A JSON file that need not be there.
fn read_optional<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    if !path.is_file() {
        return Ok(T::default());
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_str(&text).map_err(|error| Error::Config(format!("{}: {error}", path.display())))
}

impl OmniBuilder {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
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

    /// Where the model runs; the CPU if not said.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The number type of the computation; if not said, f32 on wgpu, bf16 on CUDA, and on the CPU bf16 if the checkpoint's config
    /// names it, otherwise f32.
    ///
    /// On the CPU matrices stay as they are stored and states are f32 in any case. bf16 means there that products of many rows
    /// round both sides to bf16 where the processor is faster at that, that caches are bf16, and that matrices stored in f32
    /// become bf16.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Leaves talker, code predictor and vocoder out: less memory, no speech.
    pub fn text_only(mut self) -> Self {
        self.text_only = true;
        self
    }

    /// Leaves the audio and vision encoders out: less memory, but only text can be asked.
    pub fn without_media(mut self) -> Self {
        self.without_media = true;
        self
    }

    /// Sets the attention window of the audio encoder to 1 to 8 seconds; the checkpoint's own, 8, if not said.
    pub fn audio_window(mut self, seconds: usize) -> Self {
        self.audio_window = Some(seconds);
        self
    }

    /// Sets how many answers may be in the making at once; 8, if not said. One more is refused with [`Error::Busy`]. Answers that
    /// are made at once share each reading of the weights on the CPU.
    pub fn max_answers(mut self, answers: usize) -> Self {
        self.max_answers = answers;
        self
    }

    /// Bounds the CPU threads this model computes with: it gets so many of its own. If not said, it shares those of the process
    /// (`rayon`'s global pool), one per processor. Stages wait in further threads, which compute nothing.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Bytes the weights may take, instead of what the system says is available.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Puts a third party's audio encoder in the place of the checkpoint's, which is not loaded then. It gets the log-mel frames
    /// `[T, M]` of all sound of a conversation in one call, and must make as many rows of each as the checkpoint's own would, in the
    /// thinker's width.
    pub fn audio_encoder(mut self, encoder: impl ModalityEncoder<Features = Vec<Tensor<2>>> + 'static) -> Self {
        self.plugged.audio = Some(Box::new(encoder));
        self
    }

    /// Puts a third party's vision encoder in the place of the checkpoint's, which is not loaded then. It must make one row of each
    /// merge block of patches, in the thinker's width; deepstack features may be left out.
    pub fn vision_encoder(mut self, encoder: impl ModalityEncoder<Features = Vec<PixelPatches>> + 'static) -> Self {
        self.plugged.vision = Some(Box::new(encoder));
        self
    }

    /// Puts a third party's vocoder in the place of the checkpoint's, which is not loaded then.
    pub fn vocoder(mut self, vocoder: impl Vocoder + 'static) -> Self {
        self.plugged.vocoder = Some(Box::new(vocoder));
        self
    }

    /// Takes only config and tokenizer from the directory and draws the weights on the device, without sense but of the right
    /// sizes: to measure speed and memory of a checkpoint that is not there. Shards that lie in the directory are not read.
    /// Linear layers that the config's `quantization_config` names are packed.
    ///
    /// The same seed gives the same model on the same device, as long as nothing else draws random numbers there while it is
    /// loaded.
    pub fn random_weights(mut self, seed: u64) -> Self {
        self.random_weights = Some(seed);
        self
    }

    /// Reports progress while weights are read.
    pub fn progress(mut self, callback: impl FnMut(Loading) + 'static) -> Self {
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

    /// What the model takes of memory between answers: its weights, and the buffers that each part keeps for its next step. Caches and
    /// the activations of answers in the making come on top. No weight is read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Config`] or [`Error::Weights`] for a directory that is no checkpoint.
    pub fn memory_estimate(&self) -> Result<MemoryEstimate> {
        let checkpoint = Origin::open(&self.directory, self.random_weights)?;
        let (components, dtype) = (self.components(checkpoint.config()), self.compute_dtype(checkpoint.config()));
        let place = if self.device.is_cpu() { PlaceKind::Host } else { PlaceKind::Device };
        Ok(memory_estimate(&checkpoint, &components, place, dtype))
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Before any weight is read: [`Error::Io`], [`Error::Config`] or [`Error::Weights`] naming every missing, unexpected
    /// and mismatched tensor; [`Error::Device`] if the device is absent or lacks the number type; [`Error::Memory`] if there is
    /// too little for the weights; [`Error::Request`] for 0 threads or 0 answers at once. With [`OmniBuilder::random_weights`] no
    /// tensor can be missing.
    pub fn load(self) -> Result<Omni> {
        if self.max_answers == 0 {
            return Err(Error::Request("max_answers is 0, expected at least 1".into()));
        }
        let threads = Threads::new(self.threads)?;
        let checkpoint = Origin::open(&self.directory, self.random_weights)?;
        let components = self.components(checkpoint.config());
        checkpoint.check(&components)?;
        let config = checkpoint.config().clone();
        let speaks = components.contains(&Component::Talker);
        let tokenizer = Tokenizer::from_directory(&self.directory)?;
        check_ids(&config, &tokenizer)?;
        let template = ChatTemplate::from_directory(&self.directory)?;
        let generation = GenerationConfig::read(&self.directory, config.top.im_end_token_id)?;
        let preprocessor = PreprocessorConfig::read(&self.directory)?;
        let dtype = self.compute_dtype(&config);
        let place = self.device.place(dtype)?;
        let estimate = memory_estimate(&checkpoint, &components, place.kind(), dtype);
        crate::fit::check(estimate, place.kind(), self.memory_limit)?;
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
                audio: load_ears(&weights, &config, plugged.audio, self.audio_window)?,
                vision: match plugged.vision {
                    Some(encoder) => Eyes::Other(encoder),
                    None => Eyes::Own(VisionEncoder::load(&weights, &config.vision)?),
                },
            }),
        };
        let speech = speaks.then(|| load_speech(&weights, &config, plugged.vocoder)).transpose()?;
        let (together, places) = (Together::new(thinker.engine().batches()), Places::new(self.max_answers));
        let device = place.device().clone();
        let inner = Inner {
            config,
            tokenizer,
            template,
            generation,
            preprocessor,
            device,
            dtype,
            thinker,
            encoders,
            speech,
            together,
            places,
            threads,
        };
        Ok(Omni::new(Arc::new(inner)))
    }
}

fn memory_estimate(checkpoint: &Origin, components: &[Component], place: PlaceKind, dtype: Dtype) -> MemoryEstimate {
    let mut estimate = checkpoint.memory_estimate(components, place, dtype);
    if place == PlaceKind::Host {
        estimate.resident += (components.len() * HostEngine::KEPT_BYTES) as u64;
    }
    estimate
}

fn load_ears(
    weights: &Weights,
    config: &OmniConfig,
    plugged: Option<Box<dyn ModalityEncoder<Features = Vec<Tensor<2>>>>>,
    window: Option<usize>,
) -> Result<Ears> {
    let encoder = match plugged {
        Some(encoder) => return Ok(Ears::Other(encoder)),
        None => AutEncoder::load(weights, &config.audio)?,
    };
    Ok(Ears::Own(match window {
        Some(seconds) => encoder.with_window(seconds)?,
        None => encoder,
    }))
}

fn load_speech(weights: &Weights, config: &OmniConfig, plugged: Option<Box<dyn Vocoder>>) -> Result<SpeechParts> {
    Ok(SpeechParts {
        talker: Talker::load(weights, config.talker()?, config.turns)?,
        code_predictor: CodePredictor::load(weights, config.code_predictor()?)?,
        voice: match plugged {
            Some(vocoder) => Voice::Other(vocoder),
            None => Voice::Own(Code2Wav::load(weights, config.code2wav()?)?),
        },
    })
}

/// Every id that can reach the embedding table must have a row in it.
fn check_ids(config: &OmniConfig, tokenizer: &Tokenizer) -> Result<()> {
    let rows = config.thinker.text.vocab_size;
    let named = [
        ("im_start_token_id", config.turns.im_start),
        ("im_end_token_id", config.top.im_end_token_id),
        ("user_token_id", config.turns.user),
        ("assistant_token_id", config.turns.assistant),
        ("tts_pad_token_id", config.turns.tts_pad),
        ("tts_bos_token_id", config.turns.tts_bos),
        ("tts_eos_token_id", config.turns.tts_eos),
        ("audio_start_token_id", config.thinker.audio_start_token_id),
        ("audio_end_token_id", config.thinker.audio_end_token_id.unwrap_or(0)),
        ("audio_token_id", config.thinker.audio_token_id),
        ("image_token_id", config.thinker.image_token_id),
        ("video_token_id", config.thinker.video_token_id),
        ("largest id of the tokenizer", tokenizer.size().saturating_sub(1)),
    ];
    match named.iter().find(|(_, id)| *id as usize >= rows) {
        Some((name, id)) => Err(Error::Config(format!("{name} is {id}, but the vocabulary has only {rows} rows"))),
        None => Ok(()),
    }
}
