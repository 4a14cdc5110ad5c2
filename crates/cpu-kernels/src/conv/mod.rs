//! Convolutions: along time, with a history or with overlapping outputs, and strided ones over pictures.

mod bf16;
mod causal;
mod direct;
mod layout;
mod stream;
mod strided2d;
mod strided2d_bf16;

pub use causal::Conv1d;
pub use stream::ConvStream;
pub use strided2d::{Conv2dStack, Conv2dWeights};
