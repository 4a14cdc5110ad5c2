use checkpoint::{ConfigFault, ConfigSection};
use nn::{DecoderConfig, DecoderSpec, decoder_spec};
use serde::Deserialize;
use tm_rope::MediaIds;

/// `thinker_config`, without the encoders' sections.
#[derive(Debug, Clone, Deserialize)]
pub struct ThinkerConfig {
    /// Placeholder for one row of audio.
    pub audio_token_id: u32,
    /// Placeholder for one row of an image.
    pub image_token_id: u32,
    /// Placeholder for one row of a video.
    pub video_token_id: u32,
    /// Opens audio.
    pub audio_start_token_id: u32,
    /// Closes audio; only needed for audio in video: elsewhere the chat template writes it.
    pub audio_end_token_id: Option<u32>,
    /// Opens an image or video.
    pub vision_start_token_id: u32,
    /// Positions per second of audio and video.
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
        let (at, seconds) = (Self::SECTION, self.position_id_per_seconds);
        ConfigFault::unless(seconds > 0.0 && seconds.is_finite(), at, || {
            format!("position_id_per_seconds is {seconds}, expected a number above 0")
        })?;
        let ids = [
            ("audio_token_id", self.audio_token_id),
            ("image_token_id", self.image_token_id),
            ("video_token_id", self.video_token_id),
            ("audio_start_token_id", self.audio_start_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
        ];
        // Media are found in a prompt by these ids.
        let mut pairs = ids.iter().enumerate().flat_map(|(n, one)| ids[n + 1..].iter().map(move |other| (one, other)));
        if let Some(((one, id), (other, _))) = pairs.find(|((_, one), (_, other))| one == other) {
            return ConfigFault::unless(false, at, || {
                format!("{one} and {other} are both {id}, expected different ids")
            });
        }
        self.text.validate("thinker_config.text_config")
    }
}

/// The thinker's decoder sizes; the chosen experts' weights are normalised to a sum of 1 unless the config says otherwise.
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
