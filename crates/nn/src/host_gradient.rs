//! Functions of values in host memory that bring their own backward pass.
//!
//! On an autodiff device a layer of several plain operations keeps a tensor for each and walks memory once for each, forwards and
//! backwards. Where the tensors lie in host memory such a layer can be one [`HostFunction`] instead.

use std::fmt::Debug;

use burn::tensor::Tensor;

/// The shape and the values of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// Sizes of the axes.
    pub shape: &'a [usize],
    /// In the order of the axes, the last one fastest.
    pub values: &'a [f32],
}

/// A function of `N` tensors with a gradient for each.
pub trait HostFunction<const N: usize>: Debug + Clone + Send + Sync + 'static {
    /// Computes the shape and the values of the output.
    fn forward(&self, inputs: [Values; N]) -> (Vec<usize>, Vec<f32>);

    /// Computes the gradient of each input from that of the output; that of an input that is a constant may be left empty.
    fn backward(&self, inputs: [Values; N], output: Values, gradient: &[f32]) -> [Vec<f32>; N];

    /// Computes the output and intermediate values that [`Self::backward_of`] would otherwise compute again.
    fn forward_keeping(&self, inputs: [Values; N]) -> ((Vec<usize>, Vec<f32>), Vec<f32>) {
        (self.forward(inputs), Vec::new())
    }

    /// Computes the gradients of the inputs marked in `wanted`; those of the others may be left empty. `kept` holds the intermediate
    /// values of [`Self::forward_keeping`]. Override it to use `kept`, or to skip gradients that nothing needs.
    fn backward_of(
        &self,
        inputs: [Values; N],
        (output, kept): (Values, &[f32]),
        gradient: &[f32],
        wanted: [bool; N],
    ) -> [Vec<f32>; N] {
        let _ = (kept, wanted);
        self.backward(inputs, output, gradient)
    }
}

/// A tensor that [`host_function`] can take.
#[derive(Debug)]
pub struct HostInput(inner::Tracked);

impl HostInput {
    /// Takes a tensor of f32 on an autodiff device whose values lie in host memory; `None` for any other.
    pub fn new<const D: usize>(x: Tensor<D>) -> Option<Self> {
        inner::tracked(x).map(Self)
    }
}

/// Applies a function to several tensors; `None` if one of them is no [`HostInput`].
pub fn host_function<F: HostFunction<N>, const N: usize, const D: usize>(
    function: &F,
    inputs: [Option<HostInput>; N],
) -> Option<Tensor<D>> {
    if inputs.iter().any(Option::is_none) {
        return None;
    }
    let mut inputs = inputs.into_iter().flatten().map(|input| input.0);
    Some(inner::apply(function, std::array::from_fn(|_| inputs.next().expect("N inputs"))))
}

/// Whether `x` can be a [`HostInput`].
pub fn has_host_gradients<const D: usize>(x: &Tensor<D>) -> bool {
    HostInput::new(x.clone()).is_some()
}

#[cfg(all(feature = "flex", feature = "autodiff"))]
mod inner {
    use std::sync::Arc;

    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::flex::FlexTensor;
    use burn::backend::{Autodiff, Flex, tensor::FloatTensor};
    use burn::tensor::{DType, Tensor, TensorData};

    use super::{HostFunction, Values};

    pub(super) type Tracked = FloatTensor<Autodiff<Flex>>;

    pub(super) fn tracked<const D: usize>(x: Tensor<D>) -> Option<Tracked> {
        if x.dtype() != DType::F32 || !x.device().is_autodiff() {
            return None;
        }
        x.try_into_primitive::<Autodiff<Flex>>().ok()
    }

    /// What the backward pass of a function needs.
    #[derive(Debug, Clone)]
    struct Saved<F, const N: usize> {
        function: F,
        inputs: [FlexTensor; N],
        output: FlexTensor,
        kept: Arc<Vec<f32>>,
    }

    #[derive(Debug)]
    struct Step<F>(std::marker::PhantomData<F>);

    impl<F: HostFunction<N>, const N: usize> Backward<Flex, N> for Step<F> {
        type State = Saved<F, N>;

        fn backward(self, ops: Ops<Saved<F, N>, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
            let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
            let Saved { function, inputs, output, kept } = &ops.state;
            let shapes = inputs.each_ref().map(dims);
            let shape = dims(output);
            let found = function.backward_of(
                std::array::from_fn(|index| view(&shapes[index], &inputs[index])),
                (view(&shape, output), kept),
                slice(&gradient),
                ops.parents.each_ref().map(Option::is_some),
            );
            for ((parent, values), shape) in ops.parents.iter().zip(found).zip(shapes) {
                if let Some(parent) = parent {
                    gradients.register::<Flex>(parent.id, FlexTensor::from_data(TensorData::new(values, shape)));
                }
            }
        }
    }

    pub(super) fn apply<F: HostFunction<N>, const N: usize, const D: usize>(
        function: &F,
        inputs: [Tracked; N],
    ) -> Tensor<D> {
        let nodes = inputs.each_ref().map(|input| input.node());
        let inputs = inputs.map(|input| input.into_primitive().to_contiguous());
        let shapes = inputs.each_ref().map(dims);
        let inputs_of = std::array::from_fn(|index| view(&shapes[index], &inputs[index]));
        let ((shape, values), kept) = function.forward_keeping(inputs_of);
        let output = FlexTensor::from_data(TensorData::new(values, shape));
        let output = match Step(std::marker::PhantomData).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let kept = Arc::new(kept);
                let saved = Saved { function: function.clone(), inputs, output: output.clone(), kept };
                prep.finish(saved, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        Tensor::from_primitive::<Autodiff<Flex>>(output)
    }

    fn dims(x: &FlexTensor) -> Vec<usize> {
        x.layout().shape().to_vec()
    }

    fn view<'a>(shape: &'a [usize], x: &'a FlexTensor) -> Values<'a> {
        Values { shape, values: slice(x) }
    }

    fn slice(x: &FlexTensor) -> &[f32] {
        x.as_slice().expect("f32 in order")
    }
}

#[cfg(not(all(feature = "flex", feature = "autodiff")))]
mod inner {
    use std::convert::Infallible;

    use burn::tensor::Tensor;

    use super::HostFunction;

    pub(super) type Tracked = Infallible;

    pub(super) fn tracked<const D: usize>(_: Tensor<D>) -> Option<Infallible> {
        None
    }

    pub(super) fn apply<F: HostFunction<N>, const N: usize, const D: usize>(
        _: &F,
        inputs: [Infallible; N],
    ) -> Tensor<D> {
        match inputs.first() {
            Some(never) => match *never {},
            None => unreachable!("a function without inputs"),
        }
    }
}
