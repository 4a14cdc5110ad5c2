//! Encoding piece by piece where it keeps no request waiting.

use qwen3_omni::Audio;

use super::encoder::SoundEncoder;
use crate::app::blocking;
use crate::error::{ApiError, ApiResult};

/// Writes a file of sound in threads that may compute for a while.
pub(crate) struct BackgroundEncoder {
    /// `None` while it works, and after a panic.
    encoder: Option<Box<dyn SoundEncoder>>,
}

impl BackgroundEncoder {
    pub(crate) fn new(encoder: Box<dyn SoundEncoder>) -> Self {
        Self { encoder: Some(encoder) }
    }

    /// Takes sound and returns the bytes that it completes.
    ///
    /// # Errors
    /// 500 if the encoder fails or panics.
    pub(crate) async fn push(&mut self, sound: Audio) -> ApiResult<Vec<u8>> {
        self.work(move |encoder| encoder.push(&sound.to_i16())).await
    }

    /// Returns the last bytes.
    ///
    /// # Errors
    /// Those of [`BackgroundEncoder::push`].
    pub(crate) async fn finish(&mut self) -> ApiResult<Vec<u8>> {
        self.work(|encoder| encoder.finish()).await
    }

    async fn work(
        &mut self,
        work: impl FnOnce(&mut dyn SoundEncoder) -> ApiResult<Vec<u8>> + Send + 'static,
    ) -> ApiResult<Vec<u8>> {
        let mut encoder = self.encoder.take().ok_or_else(ApiError::internal)?;
        let done = blocking(move || {
            let bytes = work(&mut *encoder);
            (encoder, bytes)
        });
        let (encoder, bytes) = done.await?;
        self.encoder = Some(encoder);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    /// Notes where it works; panics at the end.
    struct Traced(std::sync::mpsc::Sender<ThreadId>);

    impl SoundEncoder for Traced {
        fn push(&mut self, samples: &[i16]) -> ApiResult<Vec<u8>> {
            self.0.send(thread::current().id()).unwrap();
            Ok(vec![0; samples.len()])
        }

        fn finish(&mut self) -> ApiResult<Vec<u8>> {
            panic!("an encoder");
        }
    }

    #[tokio::test]
    async fn encoders_work_in_other_threads_and_their_panics_are_errors() {
        let (sender, places) = std::sync::mpsc::channel();
        let mut encoder = BackgroundEncoder::new(Box::new(Traced(sender)));
        let sound = Audio { samples: vec![0.0; 3], sample_rate: 24_000 };
        assert_eq!(encoder.push(sound.clone()).await.unwrap(), [0; 3]);
        assert_ne!(places.recv().unwrap(), thread::current().id());
        assert_eq!(encoder.finish().await.unwrap_err().code, "internal_error");
        assert_eq!(encoder.push(sound).await.unwrap_err().code, "internal_error");
    }
}
