use burn::tensor::Tensor;
use nn::Engine;

/// Observes the vocoder's intermediate results for one stream, for parity tests.
pub trait VocoderProbe: Send {
    /// Output of a part, named as in the reference data: `embedding_mean`, `layer_{i}`, `norm` `[F, D]`; `upsample_{i}_a`,
    /// `upsample_{i}_b`, `decoder_{i}` `[C, time]`.
    fn part(&mut self, name: &str, index: usize, output: &Tensor<2>);
}

/// Shows rows `[N, D]` of a part, transposed to `[D, N]` if the reference has them so.
pub(crate) fn show_rows<E: Engine>(
    e: &E,
    probe: &mut Option<&mut dyn VocoderProbe>,
    name: &str,
    index: usize,
    x: &E::Rows,
    transposed: bool,
) {
    if let Some(probe) = probe {
        let rows = e.tensor(x, 0..e.shape(x)[0]);
        probe.part(name, index, &if transposed { rows.transpose() } else { rows });
    }
}
