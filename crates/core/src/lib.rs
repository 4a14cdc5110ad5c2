//! Contracts between the Qwen3-Omni crates.
//!
//! What the parts of the model promise each other: where a model computes ([`Place`]), what passes between the parts
//! ([`Positions`], [`VisualRows`], [`FrameStart`], [`FrameCodes`]), what third parties may implement ([`ModalityEncoder`],
//! [`Vocoder`]), [`SamplingOptions`] and one [`Error`]. Nothing here computes.
//! A third party can write an encoder or a vocoder against this crate alone.
//!
//! # Shapes
//! One alphabet is used in all crates: `B` batch, `T` query tokens, `S` key tokens, `N` ragged rows of several runs, `D` width, `H`
//! heads, `K` key/value heads, `Dh` head width, `E` experts, `V` vocabulary, `Q` codebooks, `F` codec frames, `M` mel bins, `P`
//! patches.

mod codec;
mod dtype;
mod error;
mod modality;
mod place;
mod position;
mod sampling;
mod setters;
mod vocoder;

pub use codec::{FrameCodes, FrameStart};
pub use dtype::Dtype;
pub use error::{BoxError, Error, Result};
pub use modality::{Encoded, ModalityEncoder, SpanLayout};
pub use place::{Place, PlaceKind};
pub use position::Positions;
pub use sampling::SamplingOptions;
pub use vocoder::{VisualRows, Vocoder, VocoderStream};

/// Asserts the shape of a tensor inside a `forward`: a wrong shape there is a bug, not an input error.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<2>::zeros([2, 3], &Device::flex());
/// qwen3_omni_core::assert_shape!(x, [2, 3]);
/// ```
#[macro_export]
macro_rules! assert_shape {
    ($tensor:expr, $shape:expr) => {
        assert_eq!($tensor.dims(), $shape, "shape of `{}`", stringify!($tensor))
    };
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
