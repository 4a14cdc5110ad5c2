//! MP3 by LAME (feature `mp3`).

use mp3lame_encoder::{Bitrate, Builder, Encoder, FlushNoGap, MonoPcm, Quality};

use super::encoder::{SoundEncoder, broken};
use crate::error::ApiResult;

pub(super) struct Mp3 {
    encoder: Encoder,
}

impl Mp3 {
    pub(super) fn new(sample_rate: u32) -> ApiResult<Self> {
        let failed = |error| broken("mp3", error);
        let mut builder = Builder::new().ok_or_else(|| broken("mp3", "no memory"))?;
        builder.set_num_channels(1).map_err(failed)?;
        builder.set_sample_rate(sample_rate).map_err(failed)?;
        builder.set_brate(Bitrate::Kbps96).map_err(failed)?;
        builder.set_quality(Quality::Good).map_err(failed)?;
        // The tag with the number of frames stands first, and is known last.
        builder.set_to_write_vbr_tag(false).map_err(failed)?;
        Ok(Self { encoder: builder.build().map_err(failed)? })
    }
}

impl SoundEncoder for Mp3 {
    fn push(&mut self, samples: &[i16]) -> ApiResult<Vec<u8>> {
        let mut bytes = Vec::with_capacity(mp3lame_encoder::max_required_buffer_size(samples.len()));
        if !samples.is_empty() {
            self.encoder.encode_to_vec(MonoPcm(samples), &mut bytes).map_err(|error| broken("mp3 frame", error))?;
        }
        Ok(bytes)
    }

    fn finish(&mut self) -> ApiResult<Vec<u8>> {
        let mut bytes = Vec::with_capacity(mp3lame_encoder::max_required_buffer_size(0));
        self.encoder.flush_to_vec::<FlushNoGap>(&mut bytes).map_err(|error| broken("mp3 end", error))?;
        Ok(bytes)
    }
}
