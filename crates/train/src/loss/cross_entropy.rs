use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};
use nn::{HostFunction, HostInput, Values, host_function};

use crate::{Error, Result};

/// Log-probability of each row's label, in f32.
///
/// # Shapes
/// `logits` `[n, V]`, `labels` `[n]` → `[n]`.
///
/// # Errors
/// [`Error::Batch`] for no rows, another number of labels than rows, or a label beyond the vocabulary.
pub fn log_probs(logits: Tensor<2>, labels: &[u32]) -> Result<Tensor<1>> {
    let [rows, vocabulary] = logits.dims();
    if rows == 0 || rows != labels.len() {
        return Err(Error::Batch(format!("{} labels for {rows} rows of logits", labels.len())));
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= vocabulary) {
        return Err(Error::Batch(format!("label {label} is beyond the vocabulary of {vocabulary}")));
    }
    let found = host_function(&LabelLogProbs { labels: labels.to_vec() }, [HostInput::new(logits.clone())]);
    Ok(found.unwrap_or_else(|| {
        let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
        let labels: Tensor<2, Int> = Tensor::from_data(TensorData::new(labels, [rows, 1]), &logits.device());
        log_softmax(logits.cast(DType::F32), 1).gather(1, labels).flatten(0, 1)
    }))
}

/// Log-probabilities of labels as one function, where gradients are computed in host memory.
#[derive(Debug, Clone)]
struct LabelLogProbs {
    labels: Vec<u32>,
}

impl HostFunction<1> for LabelLogProbs {
    fn forward(&self, [logits]: [Values; 1]) -> (Vec<usize>, Vec<f32>) {
        (vec![self.labels.len()], cpu_kernels::label_log_probs(logits.values, &self.labels, logits.shape[1]))
    }

    fn backward(&self, [logits]: [Values; 1], _: Values, gradient: &[f32]) -> [Vec<f32>; 1] {
        [cpu_kernels::label_log_probs_backward(logits.values, &self.labels, logits.shape[1], gradient)]
    }
}

/// Sum of the cross-entropy of all rows. It is divided by the number of rows of the whole optimiser step, not of one batch.
///
/// # Shapes
/// `logits` `[n, V]`, `labels` `[n]` → `[1]`.
///
/// # Errors
/// The errors of [`log_probs`].
pub fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Result<Tensor<1>> {
    Ok(log_probs(logits, labels)?.sum().neg())
}

/// Sum of the cross-entropy of all rows with smoothed labels: `(1 − ε)` of the label's, and `ε` of its mean over the vocabulary.
///
/// # Shapes
/// `logits` `[n, V]`, `labels` `[n]` → `[1]`.
///
/// # Errors
/// The errors of [`log_probs`].
pub fn smoothed_cross_entropy(logits: Tensor<2>, labels: &[u32], smoothing: f64) -> Result<Tensor<1>> {
    let of_labels = cross_entropy(logits.clone(), labels)?;
    if smoothing == 0.0 {
        return Ok(of_labels);
    }
    let of_all = log_softmax(logits.cast(DType::F32), 1).mean_dim(1).sum().neg();
    Ok(of_labels * (1.0 - smoothing) + of_all * smoothing)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn smoothed_labels_share_their_weight_with_the_whole_vocabulary() {
        let logits = Tensor::<2>::from_data([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]], &Device::flex());
        let total = (1f64.exp() + 2f64.exp() + 4f64.exp()).ln();
        let log_probs = [[1.0 - total, 2.0 - total, 4.0 - total], [-(3f64.ln()); 3]];
        // PyTorch's `cross_entropy(…, label_smoothing=0.1, reduction="sum")` is this weighted sum.
        let rows = log_probs.iter().zip([2, 0]).map(|(row, label)| {
            let weight = |at| if at == label { 0.9 + 0.1 / 3.0 } else { 0.1 / 3.0 };
            -row.iter().enumerate().map(|(at, value)| weight(at) * value).sum::<f64>()
        });
        let found = smoothed_cross_entropy(logits.clone(), &[2, 0], 0.1).unwrap().into_scalar::<f32>();
        assert!((f64::from(found) - rows.sum::<f64>()).abs() < 1e-5, "{found}");
        let plain = cross_entropy(logits.clone(), &[2, 0]).unwrap().into_scalar::<f32>();
        assert_eq!(smoothed_cross_entropy(logits, &[2, 0], 0.0).unwrap().into_scalar::<f32>(), plain);
    }
}
