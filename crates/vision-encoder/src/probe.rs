use burn::tensor::Tensor;

/// Observes the encoder's intermediate results, batch after batch, for tests and tools; `()` observes nothing.
pub trait VisionProbe: Send {
    /// Whether the other functions do anything; if not, no tensors are made for them.
    fn is_active(&self) -> bool {
        true
    }
    /// Embedded patches and their resampled positions, both `[P, D]`, and the lengths of the frames.
    fn embedded(&mut self, _patches: &Tensor<2>, _positions: &Tensor<2>, _frames: &[usize]) {}
    /// Cosines and sines of the rotation, `[P, 1, Dh]`.
    fn rotary(&mut self, _cos: &Tensor<3>, _sin: &Tensor<3>) {}
    /// Output of a block `[P, D]`.
    fn block(&mut self, _: usize, _: &Tensor<2>) {}
}

impl VisionProbe for () {
    fn is_active(&self) -> bool {
        false
    }
}
