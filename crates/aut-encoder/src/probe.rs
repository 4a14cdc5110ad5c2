use burn::tensor::Tensor;

/// Observes the encoder's intermediate results, batch after batch, for tests and tools; `()` observes nothing.
pub trait AutProbe: Send {
    /// Whether the other functions do anything; if not, no tensors are made for them.
    fn is_active(&self) -> bool {
        true
    }
    /// After the third convolution and its GELU: `[chunks, C, M/8, F/8]`.
    fn conv(&mut self, _: &Tensor<4>) {}
    /// After the linear layer, before positions: `[chunks, F/8, D]`.
    fn conv_out(&mut self, _: &Tensor<3>) {}
    /// Input of the first layer `[N, D]`, and the lengths of its attention windows.
    fn input(&mut self, _: &Tensor<2>, _: &[usize]) {}
    /// Output of a layer `[N, D]`.
    fn layer(&mut self, _: usize, _: &Tensor<2>) {}
    /// After the last norm `[N, D]`.
    fn norm(&mut self, _: &Tensor<2>) {}
}

impl AutProbe for () {
    fn is_active(&self) -> bool {
        false
    }
}
