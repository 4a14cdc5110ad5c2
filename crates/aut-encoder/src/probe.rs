use burn::tensor::Tensor;

/// Sees what the encoder computes on the way, batch after batch. For tests and tools; `()` looks at nothing.
pub trait AutProbe: Send {
    /// Whether the other functions do anything; what nobody looks at need not become a tensor.
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
