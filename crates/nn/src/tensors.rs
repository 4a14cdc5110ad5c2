use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

/// A tensor's values in single precision, in host memory.
pub fn to_f32_vec<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().convert::<f32>().try_to_vec_as::<f32>().expect("converted to f32")
}

/// Lends the values in f32 to `f`, without a copy if they lie in host memory in order.
pub fn with_f32_slice<const D: usize, T>(x: &Tensor<D>, f: impl FnOnce(&[f32]) -> T) -> T {
    #[cfg(feature = "flex")]
    if let Ok(memory) = x.clone().try_into_primitive::<burn::backend::Flex>() {
        let memory = memory.to_contiguous();
        if let Some(values) = memory.as_slice::<f32>() {
            return f(values);
        }
    }
    f(&to_f32_vec(x))
}

/// Concatenates tensors along `axis`; a single one is returned as it is, without a copy.
pub(crate) fn joined<const D: usize, K: Basic>(mut parts: Vec<Tensor<D, K>>, axis: usize) -> Tensor<D, K> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, axis),
    }
}
