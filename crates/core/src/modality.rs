use burn::tensor::Tensor;

use crate::Result;

/// Layout of one encoded item's rows in time and space, from which TM-RoPE makes positions (paper, section 2.1).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SpanLayout {
    /// Rows in a plain sequence, as text.
    Sequence {
        /// Number of rows.
        tokens: usize,
    },
    /// Rows of sound, one per 80 ms.
    Audio {
        /// Number of rows.
        tokens: usize,
    },
    /// Rows of a picture (`t` = 1) or video on a grid, in merged units (after the 2×2 patch merge).
    Grid {
        /// Steps in time.
        t: usize,
        /// Rows.
        h: usize,
        /// Columns.
        w: usize,
        /// Seconds from one time step to the next.
        seconds_per_step: f32,
    },
    /// A video's rows and the rows of its own sound, interleaved by time.
    AudioInVideo {
        /// Rows of sound.
        audio_tokens: usize,
        /// Steps in time, rows and columns of the video, in merged units.
        grid: [usize; 3],
        /// Seconds from one time step of the video to the next.
        seconds_per_step: f32,
    },
}

impl SpanLayout {
    /// Number of embedding rows of the span.
    pub fn tokens(&self) -> usize {
        match *self {
            SpanLayout::Sequence { tokens } | SpanLayout::Audio { tokens } => tokens,
            SpanLayout::Grid { t, h, w, .. } => t * h * w,
            SpanLayout::AudioInVideo { audio_tokens, grid: [t, h, w], .. } => audio_tokens + t * h * w,
        }
    }
}

/// Rows an encoder returns for the thinker, with their layout.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[T, D]`: the rows of all items, one item after another; `D` is the thinker's width.
    pub embeds: Tensor<2>,
    /// One span per item; their tokens add up to `T`.
    pub spans: Vec<SpanLayout>,
    /// Deepstack features `[T, D]` that the thinker adds after its first layers; empty except for vision.
    pub deepstack: Vec<Tensor<2>>,
}

/// Turns the features of one modality into rows the thinker reads.
pub trait ModalityEncoder: Send + Sync {
    /// What the encoder takes: log-mel frames, pixel patches, or anything a third party defines.
    type Features: Send;

    /// Encodes one or more items.
    ///
    /// # Errors
    /// [`crate::Error::Media`] if the features have no frames or a size the encoder cannot take.
    fn encode(&self, features: Self::Features) -> Result<Encoded>;
}
