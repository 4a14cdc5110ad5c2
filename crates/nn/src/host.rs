use burn::tensor::{Tensor, TensorData};
pub(crate) use checkpoint::is_host;
use kernels::{LinearShape, linear};

use crate::matrix::HostMatrix;

/// `x Wᵀ + b`: on the CPU in f32 by this family's kernel from some rows on, otherwise by the framework.
///
/// # Shapes
/// `x` `[N, in]`, `weight` `[out, in]`, `bias` `[out]` → `[N, out]`.
pub(crate) fn product(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if let Some(y) = flex::product(&x, &weight, bias.as_ref()) {
        return y;
    }
    let y = x.matmul(weight.transpose()); // [N, out]
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// `x Wᵀ + b` with a weight in host memory.
///
/// # Shapes
/// `x` `[N, in]`, `bias` `[out]` → `[N, out]`.
pub(crate) fn host_product(x: &Tensor<2>, weight: &HostMatrix, bias: Option<Tensor<1>>) -> Tensor<2> {
    let ([rows, input], [output, _]) = (x.dims(), weight.stored.shape());
    let bias = bias.map(|bias| numbers(&bias));
    let shape = LinearShape { rows, input, output };
    let y = with_numbers(x, |x| linear(x, weight.weight(), bias.as_deref(), shape, weight.precision));
    Tensor::from_data(TensorData::new(y, [rows, output]), &x.device())
}

/// A tensor's values in single precision.
pub fn numbers<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().convert::<f32>().try_to_vec_as::<f32>().expect("converted to f32")
}

/// As [`numbers`], without a copy where the values lie in order.
pub fn with_numbers<const D: usize, T>(x: &Tensor<D>, f: impl FnOnce(&[f32]) -> T) -> T {
    #[cfg(feature = "flex")]
    if let Some(memory) = flex::memory(x) {
        let memory = memory.to_contiguous();
        if let Some(values) = memory.as_slice::<f32>() {
            return f(values);
        }
    }
    f(&numbers(x))
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::Flex;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::{DType, Tensor, TensorData};
    use kernels::{LinearShape, Precision, Weight, linear};

    use super::is_host;

    /// Below, reading the weight takes longer than multiplying, and the framework does it without a copy.
    const ROWS: usize = 8;

    /// `None` where the kernel does not fit: another device or type, few rows, a weight in another order.
    pub(super) fn product(x: &Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> Option<Tensor<2>> {
        let ([rows, input], [output, _]) = (x.dims(), weight.dims());
        let device = x.device();
        if rows < ROWS || x.dtype() != DType::F32 || weight.dtype() != DType::F32 || !is_host(&device) {
            return None;
        }
        let weight = memory(weight)?;
        let bias = match bias {
            Some(bias) => Some(memory(bias)?),
            None => None,
        };
        let bias = match &bias {
            Some(bias) => Some(bias.as_slice::<f32>()?),
            None => None,
        };
        let x = memory(x)?.to_contiguous();
        let y = linear(
            x.as_slice()?,
            Weight::F32(weight.as_slice()?),
            bias,
            LinearShape { rows, input, output },
            Precision::Full,
        );
        Some(Tensor::from_data(TensorData::new(y, [rows, output]), &device))
    }

    pub(super) fn memory<const D: usize>(x: &Tensor<D>) -> Option<FloatTensor<Flex>> {
        x.clone().try_into_primitive::<Flex>().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn the_cpu_is_recognised() {
        assert!(is_host(&Device::flex()));
    }

    #[test]
    fn views_and_contiguous_tensors_multiply_alike() {
        let device = Device::flex();
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (x, weight) = (random([33, 50]), random([21, 50]));
        let bias = random([1, 21]).squeeze_dim::<1>(0);
        let expected = x.clone().matmul(weight.clone().transpose()) + bias.clone().unsqueeze();
        let differs = |y: Tensor<2>| (y - expected.clone()).abs().max().into_scalar::<f32>();
        assert!(differs(product(x.clone(), weight.clone(), Some(bias.clone()))) < 1e-5);
        // The same numbers as views: columns of a wider input, a transposed weight, rows of a longer bias.
        let wide = Tensor::cat(vec![x.clone(), x], 1).narrow(1, 50, 50);
        let turned = weight.transpose().matmul(Tensor::eye(21, &device)).transpose();
        let long = Tensor::cat(vec![bias.clone(), bias], 0).narrow(0, 21, 21);
        assert!(differs(product(wide, turned, Some(long))) < 1e-5);
    }
}
