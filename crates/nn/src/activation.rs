/// Activation function after a linear layer: the epilogue of its GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// No activation.
    #[default]
    None,
    /// Exact GELU: `x * (1 + erf(x / √2)) / 2`.
    Gelu,
    /// GELU by its tanh approximation: `x * (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
    GeluTanh,
    /// `x * sigmoid(x)`.
    Silu,
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use gpu_kernels::gelu_tanh;

    use crate::fused::gelu;

    fn worst(f: impl Fn(Tensor<1>) -> Tensor<1>, expected: impl Fn(f64) -> f64) -> f64 {
        let inputs: Vec<f32> = (-240_000..240_000).map(|i| i as f32 / 2e4).chain([1e4, -1e4, 3e38, -3e38]).collect();
        let outputs = f(Tensor::from_floats(inputs.as_slice(), &Device::flex())).into_data().try_to_vec_as::<f32>();
        let pairs = inputs.iter().zip(outputs.unwrap());
        // Large values are allowed the rounding of f32.
        pairs
            .map(|(x, y)| (f64::from(y) - expected(f64::from(*x))).abs() / f64::from(x.abs()).max(1.0))
            .fold(0.0, f64::max)
    }

    #[test]
    fn the_tanh_form_is_right_everywhere() {
        let scale = (2.0 / std::f64::consts::PI).sqrt();
        let error = worst(gelu_tanh, |x| x * 0.5 * (1.0 + (scale * (x + 0.044715 * x.powi(3))).tanh()));
        assert!(error < 5e-7, "{error}");
    }

    #[test]
    fn the_exact_form_agrees_with_the_integral_of_the_normal_density() {
        // Simpson's rule over the density from 0 to x.
        let normal = |x: f64| {
            let steps = 400;
            let h = x / f64::from(steps);
            let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let inner = (1..steps).map(|i| density(h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 });
            0.5 + h / 3.0 * (density(0.0) + density(x) + inner.sum::<f64>())
        };
        let inputs: Vec<f32> = (-600..=600).map(|i| i as f32 / 100.0).collect();
        let outputs: Vec<f32> =
            gelu(Tensor::<1>::from_floats(inputs.as_slice(), &Device::flex())).into_data().try_to_vec_as().unwrap();
        for (x, y) in inputs.iter().zip(outputs) {
            let expected = f64::from(*x) * normal(f64::from(*x));
            assert!((f64::from(y) - expected).abs() < 1e-6, "{x}: {y} instead of {expected}");
        }
        // Far out the density is zero: only the sign decides.
        let far = gelu(Tensor::<1>::from_floats([1e4, -1e4, 3e38, -3e38], &Device::flex()));
        assert_eq!(far.into_data().try_to_vec_as::<f32>().unwrap(), [1e4, 0.0, 3e38, 0.0]);
    }

    #[test]
    fn views_are_not_changed_behind_their_back() {
        let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &Device::flex());
        let column = gelu(x.clone().narrow(1, 1, 1));
        assert_eq!(column.dims(), [2, 1]);
        assert_eq!(x.into_data().try_to_vec_as::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}
