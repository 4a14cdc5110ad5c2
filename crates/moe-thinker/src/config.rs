use checkpoint::{DecoderConfig, ThinkerConfig};
use nn::{DecoderSpec, decoder_spec};
use tm_rope::MediaIds;

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
