use burn::tensor::Tensor;

/// What the code predictor starts a frame from: the talker's hidden state and the first code's embedding (paper, section 2.4).
#[derive(Debug, Clone)]
pub struct FrameStart {
    /// `[1, D]`: the hidden state the talker chose the first code from.
    pub hidden: Tensor<2>,
    /// `[1, D]`: embedding of the first code.
    pub first: Tensor<2>,
}

/// Residual codes of one frame.
#[derive(Debug, Clone)]
pub struct FrameCodes {
    /// `[Q - 1]`: codes of codebooks 1 to Q − 1.
    pub residual: Vec<u32>,
    /// `[1, D]`: sum of the residual codes' embeddings in f32, part of the talker's next input.
    pub embeds: Tensor<2>,
}
