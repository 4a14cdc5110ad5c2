use checkpoint::{DecoderConfig, OmniConfig, TalkerConfig};
use nn::{DecoderSpec, decoder_spec};

/// Sizes of the talker's decoder. The reference class does not make the experts' weights add up to 1 unless the file
/// says so (the released one does).
pub fn talker_spec(config: &DecoderConfig) -> DecoderSpec {
    decoder_spec(config, false)
}

/// Thinker ids that tell turns and text controls apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Opens a turn.
    pub im_start: u32,
    /// Names the user's turns.
    pub user: u32,
    /// Names the assistant's turns.
    pub assistant: u32,
    /// Text side where there is no text.
    pub tts_pad: u32,
    /// Opens the text.
    pub tts_bos: u32,
    /// Closes the text.
    pub tts_eos: u32,
    /// Stand for rows of sound, pictures and video.
    pub placeholders: [u32; 3],
}

impl From<&OmniConfig> for Turns {
    fn from(config: &OmniConfig) -> Self {
        Self {
            im_start: config.im_start_token_id,
            user: config.user_token_id,
            assistant: config.assistant_token_id,
            tts_pad: config.tts_pad_token_id,
            tts_bos: config.tts_bos_token_id,
            tts_eos: config.tts_eos_token_id,
            placeholders: [config.thinker.audio_token_id, config.thinker.image_token_id, config.thinker.video_token_id],
        }
    }
}

/// Codec side of the talker's opening positions.
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
