use burn::tensor::Tensor;

/// Inputs a convolution still needs for its next outputs, in the form of the engine that keeps them.
#[derive(Debug, Clone, Default)]
#[allow(clippy::large_enum_variant)] // All of a model are of one kind.
pub(crate) enum History {
    /// Before the first step.
    #[default]
    None,
    /// The stream ends with its first step, so nothing is kept.
    Discard,
    /// On a device: `[1, C, past]`, not yet activated.
    Tensor(Tensor<3>),
    /// In host memory: `[C, past]`, not yet activated; for a depthwise convolution rows `[past, C]`.
    Host(Vec<f32>),
}

impl History {
    /// The values in host memory, empty before the first step.
    ///
    /// # Panics
    /// If the engine of a device kept it.
    pub(crate) fn host(&mut self) -> &mut Vec<f32> {
        if let History::None | History::Discard = self {
            *self = History::Host(Vec::new());
        }
        match self {
            History::Host(values) => values,
            _ => panic!("a stream on a device was handed to the engine of host memory"),
        }
    }

    /// Whether the stream ends with this step.
    pub(crate) fn discards(&self) -> bool {
        matches!(self, History::Discard)
    }

    /// The tensor, if there is one.
    ///
    /// # Panics
    /// If the engine of host memory kept it.
    pub(crate) fn tensor(&self) -> Option<Tensor<3>> {
        match self {
            History::None | History::Discard => None,
            History::Tensor(tensor) => Some(tensor.clone()),
            History::Host(_) => panic!("a stream in host memory was handed to the engine of a device"),
        }
    }

    /// Keeps a tensor for the next step, if something is to be kept.
    pub(crate) fn keep(&mut self, tensor: Option<Tensor<3>>) {
        if let Some(tensor) = tensor {
            *self = History::Tensor(tensor);
        }
    }
}
