use burn::tensor::Tensor;

/// Looks at what the vocoder computes on the way of one stream, for parity tests.
pub trait VocoderProbe: Send {
    /// Output of a part, named as in the reference data: `embedding_mean`, `layer_{i}`, `norm` `[F, D]`; `upsample_{i}_a`,
    /// `upsample_{i}_b`, `decoder_{i}` `[C, time]`.
    fn part(&mut self, name: &str, index: usize, output: &Tensor<2>);
}
