//! `config.json` of the whole model: the sections of its parts, and what they must agree on.

mod component;

use std::path::{Path, PathBuf};

use aut_encoder::{AudioConfig, AutEncoder};
use checkpoint::{CheckpointError, ConfigFault, ConfigFile, ConfigSection, MOST_TENSORS, Manifest, Weights, record};
use code2wav::{Code2Wav, Code2WavConfig};
use moe_talker::{CONTROL_CODES, Talker, TalkerConfig, Turns};
use moe_thinker::{Thinker, ThinkerConfig};
use mtp::{CodePredictor, CodePredictorConfig};
use omni_core::{Error, Result};
use serde::Deserialize;
use vision_encoder::{VisionConfig, VisionEncoder};

pub use component::Component;

/// The whole `config.json`, in the key style of the released files or in the one transformers 5 writes.
///
/// ```no_run
/// let config = qwen3_omni::OmniConfig::read("model/config.json".as_ref())?;
/// println!("{} layers, speaks: {}", config.thinker.text.num_hidden_layers, config.talker().is_ok());
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct OmniConfig {
    /// Keys that belong to no part.
    pub top: TopConfig,
    /// Token ids that mark turns and text controls.
    pub turns: Turns,
    /// The thinker, without its encoders.
    pub thinker: ThinkerConfig,
    /// The audio encoder.
    pub audio: AudioConfig,
    /// The vision encoder.
    pub vision: VisionConfig,
    /// The talker; see [`OmniConfig::talker`].
    pub talker: Option<TalkerConfig>,
    /// The code predictor; see [`OmniConfig::code_predictor`].
    pub code_predictor: Option<CodePredictorConfig>,
    /// The vocoder; see [`OmniConfig::code2wav`].
    pub code2wav: Option<Code2WavConfig>,
    path: PathBuf,
}

/// The keys of `config.json` that belong to no part.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "TopKeys")]
pub struct TopConfig {
    /// Number type of the weights, as the file names it.
    pub dtype: Option<String>,
    /// Whether the checkpoint speaks. False for the Thinking and Captioner variants: no talker, no vocoder.
    pub enable_audio_output: bool,
    /// Closes a turn, and ends the text.
    pub im_end_token_id: u32,
}

/// The keys as the file has them; some files have the older name of `dtype` beside the newer.
#[derive(Deserialize)]
struct TopKeys {
    dtype: Option<String>,
    torch_dtype: Option<String>,
    #[serde(default = "yes")]
    enable_audio_output: bool,
    im_end_token_id: u32,
}

impl From<TopKeys> for TopConfig {
    fn from(keys: TopKeys) -> Self {
        let TopKeys { dtype, torch_dtype, enable_audio_output, im_end_token_id } = keys;
        Self { dtype: dtype.or(torch_dtype), enable_audio_output, im_end_token_id }
    }
}

fn yes() -> bool {
    true
}

impl ConfigSection for TopConfig {
    const SECTION: &'static str = "";

    fn validate(&self) -> std::result::Result<(), ConfigFault> {
        Ok(())
    }
}

impl OmniConfig {
    /// Reads a `config.json` and checks what the thinker and its encoders need; see [`OmniConfig::check`] for the parts that speak.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing or wrong.
    pub fn read(path: &Path) -> std::result::Result<Self, CheckpointError> {
        Self::of(&ConfigFile::read(path)?)
    }

    /// Takes the config from a file that was read; see [`OmniConfig::read`].
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing or wrong.
    pub fn of(file: &ConfigFile) -> std::result::Result<Self, CheckpointError> {
        let top: TopConfig = file.section()?;
        // Files saved again by transformers keep sections of defaults for parts that the checkpoint does not have.
        let speaks = top.enable_audio_output;
        let config = Self {
            top,
            turns: file.section()?,
            thinker: file.section()?,
            audio: file.section()?,
            vision: file.section()?,
            // Unchecked: a text-only load does not need them.
            talker: optional(file, speaks)?,
            code_predictor: optional(file, speaks)?,
            code2wav: optional(file, speaks)?,
            path: file.path().to_owned(),
        };
        config.check_encoders().map_err(|fault| fault.in_file(&config.path))?;
        Ok(config)
    }

    /// Checks that the config has what `components` need, and that their sections agree.
    ///
    /// # Errors
    /// [`CheckpointError::Json`] naming the key that is missing or wrong.
    pub fn check(&self, components: &[Component]) -> std::result::Result<(), CheckpointError> {
        if !self.top.enable_audio_output || !components.iter().any(|part| part.speaks()) {
            return Ok(());
        }
        self.check_speech().map_err(|fault| fault.in_file(&self.path))
    }

    /// Whether a checkpoint of this config holds the part.
    pub fn has(&self, component: Component) -> bool {
        self.top.enable_audio_output || !component.speaks()
    }

    /// The talker's config.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] for a checkpoint without audio output.
    pub fn talker(&self) -> Result<&TalkerConfig> {
        self.speaking(&self.talker)
    }

    /// The code predictor's config.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] for a checkpoint without audio output.
    pub fn code_predictor(&self) -> Result<&CodePredictorConfig> {
        self.speaking(&self.code_predictor)
    }

    /// The vocoder's config.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] for a checkpoint without audio output.
    pub fn code2wav(&self) -> Result<&Code2WavConfig> {
        self.speaking(&self.code2wav)
    }

    fn speaking<'a, C>(&self, config: &'a Option<C>) -> Result<&'a C> {
        let reason = "this checkpoint has no talker and no vocoder (`enable_audio_output` is false): text only";
        config.as_ref().filter(|_| self.top.enable_audio_output).ok_or_else(|| Error::NotLoaded(reason.into()))
    }

    /// The thinker's layer whose states the talker reads; `None` for a checkpoint without audio output.
    pub fn accept_hidden_layer(&self) -> Option<usize> {
        self.talker().ok().map(|talker| talker.accept_hidden_layer)
    }

    /// Records every tensor that a checkpoint of this config holds, from the loading functions of its parts. Parts that speak and
    /// whose sections are wrong ([`OmniConfig::check`]) list nothing.
    ///
    /// # Errors
    /// [`Error::Config`] if a part has more than [`MOST_TENSORS`]; [`Error::Device`] if this build has no backend.
    pub fn manifest(&self) -> Result<Manifest> {
        self.manifest_up_to(MOST_TENSORS)
    }

    /// Records every tensor; see [`OmniConfig::manifest`]. No part may have more than `most`.
    pub(crate) fn manifest_up_to(&self, most: usize) -> Result<Manifest> {
        let device = any_device()?;
        let mut all = Manifest::new();
        for component in Component::ALL {
            if self.has(component) && self.check(&[component]).is_ok() {
                all.extend(record(&device, most, |weights| self.load(component, weights))?);
            }
        }
        Ok(all)
    }

    fn load(&self, component: Component, weights: &Weights) -> Result<()> {
        match component {
            Component::Thinker => Thinker::load(weights, &self.thinker, None).map(drop),
            Component::AudioEncoder => AutEncoder::load(weights, &self.audio).map(drop),
            Component::VisionEncoder => VisionEncoder::load(weights, &self.vision).map(drop),
            Component::Talker => Talker::load(weights, self.talker()?, self.turns).map(drop),
            Component::CodePredictor => CodePredictor::load(weights, self.code_predictor()?).map(drop),
            Component::Code2Wav => Code2Wav::load(weights, self.code2wav()?).map(drop),
        }
    }

    /// Checks that the encoders' outputs are as wide as the thinker, which takes them as they are.
    fn check_encoders(&self) -> std::result::Result<(), ConfigFault> {
        let thinker = self.thinker.text.hidden_size;
        let outputs = [
            (AudioConfig::SECTION, "output_dim", self.audio.output_dim),
            (VisionConfig::SECTION, "out_hidden_size", self.vision.out_hidden_size),
        ];
        outputs.into_iter().try_for_each(|(at, name, width)| {
            ConfigFault::unless(width == thinker, at, || {
                format!("{name} is {width}, expected the thinker's hidden_size {thinker}")
            })
        })
    }

    fn check_speech(&self) -> std::result::Result<(), ConfigFault> {
        let talker = needed(&self.talker)?;
        let predictor = needed(&self.code_predictor)?;
        let code2wav = needed(&self.code2wav)?;
        talker.validate()?;
        predictor.validate()?;
        self.check_talker(talker, predictor)?;
        code2wav.validate()?;
        check_vocoder(talker, predictor, code2wav)
    }

    fn check_talker(
        &self,
        talker: &TalkerConfig,
        predictor: &CodePredictorConfig,
    ) -> std::result::Result<(), ConfigFault> {
        let (at, thinker) = (TalkerConfig::SECTION, &self.thinker.text);
        ConfigFault::unless(talker.accept_hidden_layer <= thinker.num_hidden_layers, at, || {
            let layers = thinker.num_hidden_layers;
            format!("accept_hidden_layer is {}, but the thinker has {layers} layers", talker.accept_hidden_layer)
        })?;
        let (found, expected) = (talker.thinker_hidden_size, thinker.hidden_size);
        ConfigFault::unless(found == expected, at, || {
            format!("thinker_hidden_size is {found}, but the thinker's hidden_size is {expected}")
        })?;
        ConfigFault::unless(predictor.hidden_size == talker.text.hidden_size, at, || {
            format!("the code predictor is {} wide, the talker {}", predictor.hidden_size, talker.text.hidden_size)
        })?;
        let (here, there) = (talker.num_code_groups, predictor.num_code_groups);
        ConfigFault::unless(here == there, at, || {
            format!("num_code_groups is {here} here, {there} in code_predictor_config")
        })
    }
}

/// Reads a section if it is wanted and there, without checking its values.
fn optional<C: ConfigSection>(file: &ConfigFile, wanted: bool) -> std::result::Result<Option<C>, CheckpointError> {
    file.get(C::SECTION).filter(|_| wanted).map(|_| file.parse()).transpose()
}

fn needed<C: ConfigSection>(section: &Option<C>) -> std::result::Result<&C, ConfigFault> {
    let reason = || "missing, but `enable_audio_output` is true".to_owned();
    section.as_ref().ok_or_else(|| ConfigFault { at: C::SECTION.to_owned(), reason: reason() })
}

/// Checks that every code that can be chosen has a row in the vocoder's table.
fn check_vocoder(
    talker: &TalkerConfig,
    predictor: &CodePredictorConfig,
    code2wav: &Code2WavConfig,
) -> std::result::Result<(), ConfigFault> {
    let at = Code2WavConfig::SECTION;
    let largest = talker.text.vocab_size.saturating_sub(CONTROL_CODES).max(predictor.vocab_size);
    ConfigFault::unless(largest <= code2wav.codebook_size, at, || {
        format!("codebook_size is {}, but the talker's side can choose {largest} codes", code2wav.codebook_size)
    })?;
    let (found, made) = (code2wav.num_quantizers, talker.num_code_groups);
    ConfigFault::unless(found == made, at, || {
        format!("num_quantizers is {found}, but the talker makes {made} codes per frame")
    })
}

/// Any device of this build. Nothing is allocated on it: models that only record their tensors need one.
fn any_device() -> Result<burn::tensor::Device> {
    #[cfg(feature = "flex")]
    return Ok(burn::tensor::Device::flex());
    #[cfg(all(not(feature = "flex"), feature = "cuda"))]
    return Ok(burn::tensor::Device::cuda(0));
    #[cfg(all(not(feature = "flex"), not(feature = "cuda"), feature = "wgpu"))]
    return Ok(burn::tensor::Device::wgpu(burn::tensor::DeviceKind::DefaultDevice));
    #[cfg(not(any(feature = "flex", feature = "cuda", feature = "wgpu")))]
    Err(Error::Device("this build has no backend: build with `--features flex`, `wgpu` or `cuda`".into()))
}
