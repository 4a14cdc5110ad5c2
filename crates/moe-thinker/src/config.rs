use checkpoint::{ConfigFault, ConfigSection};
use nn::{DecoderConfig, DecoderSpec, decoder_spec};
use serde::Deserialize;
use tm_rope::MediaIds;

/// `thinker_config`.
#[derive(Debug, Clone, Deserialize)]
pub struct ThinkerConfig {
    /// Stands for one row of sound in the prompt.
    pub audio_token_id: u32,
    /// Stands for one row of a picture.
    pub image_token_id: u32,
    /// Stands for one row of a video.
    pub video_token_id: u32,
    /// Opens sound.
    pub audio_start_token_id: u32,
    /// Closes sound; only sound in video needs it, elsewhere the chat template writes it.
    pub audio_end_token_id: Option<u32>,
    /// Opens a picture or video.
    pub vision_start_token_id: u32,
    /// Positions per second of sound and video.
    #[serde(default = "thirteen")]
    pub position_id_per_seconds: f32,
    /// The language model.
    #[serde(rename = "text_config")]
    pub text: DecoderConfig,
}

fn thirteen() -> f32 {
    13.0
}

impl ConfigSection for ThinkerConfig {
    const SECTION: &'static str = "thinker_config";

    fn validate(&self) -> Result<(), ConfigFault> {
        self.text.validate("thinker_config.text_config")
    }
}

/// Sizes of the thinker's decoder; the chosen experts' weights add up to 1 unless the config says otherwise.
pub fn thinker_spec(config: &DecoderConfig) -> DecoderSpec {
    decoder_spec(config, true)
}

/// The token ids that mark media in a prompt.
pub fn media_ids(config: &ThinkerConfig) -> MediaIds {
    MediaIds {
        audio: config.audio_token_id,
        image: config.image_token_id,
        video: config.video_token_id,
        audio_start: config.audio_start_token_id,
        vision_start: config.vision_start_token_id,
    }
}
