use burn::tensor::{Device, Tensor};

/// The tensor on another device; one that may be part of a graph stays so.
pub(crate) fn moved<const D: usize>(tensor: &Tensor<D>, device: &Device) -> Tensor<D> {
    let device = match tensor.device().is_autodiff() {
        true => device.clone().autodiff(),
        false => device.clone(),
    };
    tensor.clone().to_device(&device)
}
