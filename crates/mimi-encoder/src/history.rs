use burn::tensor::Tensor;

/// Inputs that a convolution still needs for its next outputs, in the form of the engine that keeps them.
#[derive(Debug, Clone, Default)]
#[allow(clippy::large_enum_variant)] // All of a model are of one kind.
pub(crate) enum History {
    /// Before the first input.
    #[default]
    None,
    /// On a device: rows `[past, C]`.
    Tensor(Tensor<2>),
    /// In host memory: rows `[past, C]`.
    Host(Vec<f32>),
}

impl History {
    /// The rows in host memory, `None` before the first input.
    ///
    /// # Panics
    /// If the engine of a device kept them.
    pub(crate) fn take_host(&mut self) -> Option<Vec<f32>> {
        match std::mem::take(self) {
            History::None => None,
            History::Host(values) => Some(values),
            History::Tensor(_) => panic!("a stream on a device was handed to the engine of host memory"),
        }
    }

    /// The rows on a device, `None` before the first input.
    ///
    /// # Panics
    /// If the engine of host memory kept them.
    pub(crate) fn take_tensor(&mut self) -> Option<Tensor<2>> {
        match std::mem::take(self) {
            History::None => None,
            History::Tensor(tensor) => Some(tensor),
            History::Host(_) => panic!("a stream in host memory was handed to the engine of a device"),
        }
    }
}

/// One stream's share of a step: its histories of all convolutions, its number of rows, and whether they are its last.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    /// By [`crate::conv::CausalConv::index`].
    pub(crate) histories: &'a mut [History],
    /// Rows in what is computed at the moment; a strided convolution makes them fewer.
    pub(crate) rows: usize,
    pub(crate) last: bool,
}

/// Number of rows of all streams.
pub(crate) fn rows(streams: &[Stream]) -> usize {
    streams.iter().map(|stream| stream.rows).sum()
}
