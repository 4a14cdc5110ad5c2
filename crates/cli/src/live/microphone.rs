//! Sound from the microphone.

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{Stream, StreamConfig};
use qwen3_omni::Result;

use super::{absent, failed};

/// The default microphone, which records as long as this lives.
pub struct Microphone(#[expect(dead_code, reason = "dropping it ends the recording")] Stream);

impl Microphone {
    /// Records: `take` is given samples of one channel, and their rate.
    ///
    /// # Errors
    /// [`qwen3_omni::Error::Device`] if there is none, or it fails.
    pub fn open(take: impl Fn(&[f32], u32) + Send + 'static) -> Result<Self> {
        let device = cpal::default_host().default_input_device().ok_or_else(|| absent("microphone"))?;
        let config: StreamConfig = device.default_input_config().map_err(failed)?.into();
        let (channels, rate) = (usize::from(config.channels), config.sample_rate);
        let mixed = move |data: &[f32], _: &cpal::InputCallbackInfo| {
            let mono = data.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32);
            take(&mono.collect::<Vec<f32>>(), rate);
        };
        let stream = device.build_input_stream(config, mixed, |error| tracing::warn!("microphone: {error}"), None);
        let stream = stream.map_err(failed)?;
        stream.play().map_err(failed)?;
        Ok(Self(stream))
    }
}
