use std::collections::BTreeMap;

use checkpoint::{ConfigFault, ConfigSection};
use nn::{DecoderConfig, DecoderSpec, decoder_spec};
use serde::Deserialize;

/// Number of ids at the end of the talker's vocabulary that are controls and never codes; a constant of the reference's code.
pub const CONTROL_CODES: usize = 1024;

/// `talker_config` without the code predictor.
#[derive(Debug, Clone, Deserialize)]
pub struct TalkerConfig {
    /// The thinker's layer whose output the talker reads at media rows (the tap).
    pub accept_hidden_layer: usize,
    /// Codebooks `Q`.
    pub num_code_groups: usize,
    /// Width of the thinker.
    pub thinker_hidden_size: usize,
    /// Codec id at the text's opening position.
    pub codec_pad_id: u32,
    /// Codec id at the first text token.
    pub codec_bos_id: u32,
    /// Codec id that ends the speech.
    pub codec_eos_token_id: u32,
    /// First control id of the codec stream.
    pub codec_nothink_id: u32,
    /// Second control id of the codec stream.
    pub codec_think_bos_id: u32,
    /// Third control id of the codec stream.
    pub codec_think_eos_id: u32,
    /// Speakers, by lower-case name.
    pub speaker_id: BTreeMap<String, u32>,
    /// The talker's decoder.
    #[serde(rename = "text_config")]
    pub text: DecoderConfig,
}

impl ConfigSection for TalkerConfig {
    const SECTION: &'static str = "talker_config";

    fn validate(&self) -> Result<(), ConfigFault> {
        let at = Self::SECTION;
        self.text.validate("talker_config.text_config")?;
        ConfigFault::unless_counts(at, &[("num_code_groups", self.num_code_groups)])?;
        ConfigFault::unless_sizes(at, &[("thinker_hidden_size", self.thinker_hidden_size)])?;
        ConfigFault::unless(self.num_code_groups >= 2, at, || {
            format!("num_code_groups is {}, expected at least 2", self.num_code_groups)
        })?;
        ConfigFault::unless(!self.speaker_id.is_empty(), at, || "speaker_id lists no speaker".into())?;
        let controls = [
            ("codec_pad_id", self.codec_pad_id),
            ("codec_bos_id", self.codec_bos_id),
            ("codec_eos_token_id", self.codec_eos_token_id),
            ("codec_nothink_id", self.codec_nothink_id),
            ("codec_think_bos_id", self.codec_think_bos_id),
            ("codec_think_eos_id", self.codec_think_eos_id),
        ];
        let speakers = self.speaker_id.iter().map(|(name, id)| (name.as_str(), *id));
        for (name, id) in controls.into_iter().chain(speakers) {
            ConfigFault::unless((id as usize) < self.text.vocab_size, at, || {
                format!("`{name}` is {id}, but the talker's vocabulary has {} ids", self.text.vocab_size)
            })?;
        }
        Ok(())
    }
}

/// The talker's decoder sizes. The reference class normalises the experts' weights to a sum of 1 only if the file says so (the
/// released one does).
pub fn talker_spec(config: &DecoderConfig) -> DecoderSpec {
    decoder_spec(config, false)
}

/// Thinker token ids that mark turns and text controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "TurnKeys")]
pub struct Turns {
    /// Opens a turn.
    pub im_start: u32,
    /// Names the user's turns.
    pub user: u32,
    /// Names the assistant's turns.
    pub assistant: u32,
    /// Stands on the text side where there is no text.
    pub tts_pad: u32,
    /// Opens the text.
    pub tts_bos: u32,
    /// Closes the text.
    pub tts_eos: u32,
    /// Placeholders for rows of audio, images and video.
    pub placeholders: [u32; 3],
}

/// The keys of the config that name these ids.
#[derive(Deserialize)]
struct TurnKeys {
    im_start_token_id: u32,
    user_token_id: u32,
    assistant_token_id: u32,
    tts_pad_token_id: u32,
    tts_bos_token_id: u32,
    tts_eos_token_id: u32,
    thinker_config: Placeholders,
}

#[derive(Deserialize)]
struct Placeholders {
    audio_token_id: u32,
    image_token_id: u32,
    video_token_id: u32,
}

impl From<TurnKeys> for Turns {
    fn from(keys: TurnKeys) -> Self {
        let Placeholders { audio_token_id, image_token_id, video_token_id } = keys.thinker_config;
        Self {
            im_start: keys.im_start_token_id,
            user: keys.user_token_id,
            assistant: keys.assistant_token_id,
            tts_pad: keys.tts_pad_token_id,
            tts_bos: keys.tts_bos_token_id,
            tts_eos: keys.tts_eos_token_id,
            placeholders: [audio_token_id, image_token_id, video_token_id],
        }
    }
}

impl ConfigSection for Turns {
    const SECTION: &'static str = "";

    fn validate(&self) -> Result<(), ConfigFault> {
        Ok(())
    }
}

/// Codec ids at the talker's opening positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Controls {
    pub(crate) pad: u32,
    pub(crate) bos: u32,
    pub(crate) eos: u32,
    pub(crate) think: [u32; 3],
}

impl From<&TalkerConfig> for Controls {
    fn from(config: &TalkerConfig) -> Self {
        Self {
            pad: config.codec_pad_id,
            bos: config.codec_bos_id,
            eos: config.codec_eos_token_id,
            think: [config.codec_nothink_id, config.codec_think_bos_id, config.codec_think_eos_id],
        }
    }
}
