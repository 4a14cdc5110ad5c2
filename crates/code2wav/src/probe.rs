use burn::tensor::Tensor;

/// Observes the vocoder's intermediate results for one stream, for parity tests.
pub trait VocoderProbe: Send {
    /// Output of a part, named as in the reference data: `embedding_mean`, `layer_{i}`, `norm` `[F, D]`; `upsample_{i}_a`,
    /// `upsample_{i}_b`, `decoder_{i}` `[C, time]`.
    fn part(&mut self, name: &str, index: usize, output: &Tensor<2>);
}
