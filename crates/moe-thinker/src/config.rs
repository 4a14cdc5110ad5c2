use checkpoint::DecoderConfig;
use nn::{DecoderSpec, decoder_spec};

/// Sizes of the thinker's decoder; the chosen experts' weights add up to 1 unless the config says otherwise.
pub fn thinker_spec(config: &DecoderConfig) -> DecoderSpec {
    decoder_spec(config, true)
}
