use burn::tensor::Tensor;

/// Looks at what the vocoder computes on the way, for parity tests. The empty probe `()` costs nothing.
pub trait VocoderProbe {
    /// Whether [`VocoderProbe::part`] does anything; parts that are not computed by themselves are left out otherwise.
    fn looks(&self) -> bool {
        true
    }

    /// Output of a part, named as in the reference data: `embedding_mean`, `layer_{i}`, `norm` `[B, F, D]`;
    /// `upsample_{i}_a`, `upsample_{i}_b`, `decoder_{i}` `[B, C, time]`.
    fn part(&mut self, name: &str, index: usize, output: &Tensor<3>) {
        let _ = (name, index, output);
    }
}

impl VocoderProbe for () {
    fn looks(&self) -> bool {
        false
    }
}
