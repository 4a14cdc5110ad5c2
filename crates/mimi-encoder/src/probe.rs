use burn::tensor::Tensor;

/// Observes the encoder's intermediate results, some frames at a time, for parity tests.
pub trait MimiProbe: Send {
    /// Next rows of a part: `conv` and `transformer` `[T, D]`, `latents` `[F, D]`.
    fn part(&mut self, name: &str, rows: &Tensor<2>);
}
