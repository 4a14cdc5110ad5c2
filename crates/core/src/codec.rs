use burn::tensor::Tensor;

/// What the residual codes of one frame are made from: the talker's side of the code predictor (paper, section 2.4).
#[derive(Debug, Clone)]
pub struct FrameStart {
    /// `[1, D]`: the talker's state that produced the first code.
    pub hidden: Tensor<2>,
    /// `[1, D]`: the first code's embedding.
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
