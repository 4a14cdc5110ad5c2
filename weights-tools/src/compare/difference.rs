use burn::tensor::Tensor;
use omni_core::{Error, Result};
use serde::Serialize;

/// How far two outputs lie apart.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The part of the model.
    pub component: &'static str,
    /// The output of that part.
    pub output: String,
    /// Number of values that were compared.
    pub values: usize,
    /// Cosine of the angle between both outputs, each taken as one vector: 1 if they point the same way.
    pub cosine: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest absolute value of the reference.
    pub largest: f64,
    /// For logits: the share of rows whose highest entry is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_best: Option<f64>,
}

impl Difference {
    /// Whether the outputs point the same way up to this cosine similarity; never if it is not a number.
    pub fn is_near(&self, least_cosine: f64) -> bool {
        self.cosine >= least_cosine
    }
}

/// Outputs of a part from both checkpoints, as they come in.
pub(super) struct Pairs {
    component: &'static str,
    output: String,
    scores: bool,
    values: usize,
    products: [f64; 3],
    max_abs: f64,
    largest: f64,
    rows: usize,
    agreeing: usize,
}

impl Pairs {
    pub(super) fn new(component: &'static str, output: impl Into<String>) -> Self {
        let (output, products) = (output.into(), [0.0; 3]);
        let (values, max_abs, largest, rows, agreeing) = (0, 0.0, 0.0, 0, 0);
        Self { component, output, scores: false, values, products, max_abs, largest, rows, agreeing }
    }

    /// For logits along the last axis: whether the highest entries agree is counted too.
    pub(super) fn scores(component: &'static str) -> Self {
        Self { scores: true, ..Self::new(component, "scores") }
    }

    /// Adds one output, of the reference and of the other checkpoint.
    pub(super) fn add<const D: usize>(&mut self, reference: Tensor<D>, other: Tensor<D>) -> Result<()> {
        let (shape, found) = (reference.dims(), other.dims());
        if shape != found {
            let reason = format!("the outputs have shapes {shape:?} and {found:?}");
            return Err(Error::weights(format!("{}, {}: {reason}", self.component, self.output)));
        }
        let width = shape[D - 1].max(1);
        let [reference, other] = [host(reference)?, host(other)?];
        reference.chunks(width).zip(other.chunks(width)).for_each(|(a, b)| self.add_row(a, b));
        Ok(())
    }

    fn add_row(&mut self, reference: &[f32], other: &[f32]) {
        for (a, b) in reference.iter().zip(other).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
            self.products[0] += a * b;
            self.products[1] += a * a;
            self.products[2] += b * b;
            // A value that is not a number must not pass for a small difference.
            let difference = if (a - b).is_finite() { (a - b).abs() } else { f64::INFINITY };
            self.max_abs = self.max_abs.max(difference);
            self.largest = self.largest.max(a.abs());
        }
        self.values += reference.len();
        self.rows += 1;
        let best = best(reference);
        self.agreeing += usize::from(best.is_some() && best == self::best(other));
    }

    pub(super) fn finish(self) -> Result<Difference> {
        let Self { component, output, scores, values, products, max_abs, largest, rows, agreeing } = self;
        if values == 0 {
            return Err(Error::Request(format!("{component}, {output}: the inputs lead to nothing to compare")));
        }
        let [product, a, b] = products;
        let equal = product.is_finite() && a == b && a == product;
        let cosine = if equal { 1.0 } else { product / (a.sqrt() * b.sqrt()) };
        let same_best = scores.then(|| agreeing as f64 / rows as f64);
        Ok(Difference { component, output, values, cosine, max_abs, largest, same_best })
    }
}

pub(super) fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let failed = |error: &dyn std::fmt::Display| Error::Device(format!("an output could not be read: {error}"));
    let data = tensor.try_into_data().map_err(|error| failed(&error))?;
    data.convert::<f32>().try_to_vec_as().map_err(|error| failed(&error))
}

/// The highest entry; `None` if one is not a number, which leaves no order.
fn best(row: &[f32]) -> Option<usize> {
    if row.iter().any(|value| value.is_nan()) {
        return None;
    }
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn difference(a: [[f32; 2]; 2], b: [[f32; 2]; 2]) -> Difference {
        let mut pairs = Pairs::scores("talker");
        pairs.add(Tensor::<2>::from_floats(a, &Device::flex()), Tensor::from_floats(b, &Device::flex())).unwrap();
        pairs.finish().unwrap()
    }

    #[test]
    fn equal_outputs_do_not_differ_and_others_are_measured() {
        let same = difference([[1.0, 2.0], [3.0, 0.0]], [[1.0, 2.0], [3.0, 0.0]]);
        assert_eq!((same.cosine, same.max_abs, same.same_best, same.values), (1.0, 0.0, Some(1.0), 4));
        let turned = difference([[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]]);
        assert!((turned.cosine - 2.0 / (5f64.sqrt() * 2f64.sqrt())).abs() < 1e-12);
        assert_eq!((turned.max_abs, turned.largest, turned.same_best), (1.0, 2.0, Some(0.5)));
        let broken = difference([[1.0, 0.0], [0.0, 2.0]], [[f32::NAN, 1.0], [0.0, 1.0]]);
        assert!(broken.max_abs.is_infinite() && !broken.is_near(-1.0));
    }

    #[test]
    fn what_is_not_finite_on_both_sides_is_never_near() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let broken = difference([[bad, 1.0], [0.0, 1.0]], [[bad, 1.0], [0.0, 1.0]]);
            assert!(!broken.is_near(-1.0) && broken.max_abs.is_infinite(), "{bad}: {broken:?}");
        }
        let broken = difference([[f32::NAN, 1.0], [0.0, 1.0]], [[f32::NAN, 1.0], [0.0, 1.0]]);
        assert_eq!(broken.same_best, Some(0.5));
        let zeros = difference([[0.0; 2]; 2], [[0.0; 2]; 2]);
        assert!(zeros.is_near(1.0));
        assert!(!difference([[1.0; 2]; 2], [[0.0; 2]; 2]).is_near(-1.0));
    }

    #[test]
    fn other_shapes_and_no_output_are_errors() {
        let mut pairs = Pairs::new("thinker", "rows");
        let zeros = |rows: usize| Tensor::<2>::zeros([rows, 2], &Device::flex());
        let message = pairs.add(zeros(1), zeros(2)).unwrap_err().to_string();
        assert!(message.contains("thinker, rows") && message.contains("[1, 2]"), "{message}");
        assert!(pairs.finish().unwrap_err().to_string().contains("nothing to compare"));
    }
}
