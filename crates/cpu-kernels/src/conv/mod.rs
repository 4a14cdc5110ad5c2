//! Convolutions, in f32 or with bf16 operands.
//!
//! [`Conv1d`] (`causal`) is the vocoder's convolution along time: causal, or transposed, which multiplies the length by its
//! stride. It convolves several [`ConvStream`]s at once, each with the history that it carries from chunk to chunk (`stream`).
//! In f32 it is a direct sum (`direct`); with bf16 operands (`bf16`) it is one GEMM per tap over the streams side by side,
//! arranged by `layout`. [`Conv2dStack`] (`strided2d`, `strided2d_bf16`) is the audio encoder's stem: three convolutions of 3 × 3
//! with stride 2 over spectrograms, each with GELU. [`TrainedConv1d`]
//! (`gradient`) is the convolution along time with its gradients, [`TrainedConv2dStack`] (`strided2d_gradient`) the stem with its
//! gradients.

mod bf16;
mod causal;
mod direct;
mod gradient;
mod layout;
mod stream;
mod strided2d;
mod strided2d_bf16;
mod strided2d_gradient;

pub use causal::Conv1d;
pub use gradient::{Conv1dGradients, TrainedConv1d};
pub use stream::ConvStream;
pub use strided2d::{Conv2dStack, Conv2dWeights};
pub use strided2d_gradient::{Conv2dGradients, Conv2dStackGradients, TrainedConv2dStack};
