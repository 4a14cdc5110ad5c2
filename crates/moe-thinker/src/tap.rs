use burn::tensor::Tensor;
use nn::Probe;
use nn::moe::Routing;

/// Captures the states of the accepted layer, and passes everything on to another probe.
///
/// Numbering as in the reference: 0 is the stack's input, `k` the raw output of layer `k - 1` (before any deepstack
/// addition), and the number of layers the output after the final norm.
pub(crate) struct Tap<'a> {
    accepted: Option<usize>,
    inner: Option<&'a mut dyn Probe>,
    taken: Option<Tensor<2>>,
}

impl<'a> Tap<'a> {
    /// Makes a tap: `accepted` is the layer whose states are captured, if any; `input` is the stack's input.
    pub(crate) fn new(accepted: Option<usize>, input: &Tensor<2>, inner: Option<&'a mut dyn Probe>) -> Self {
        Self { accepted, inner, taken: (accepted == Some(0)).then(|| input.clone()) }
    }

    /// Whether the output of the whole stack is what is captured.
    pub(crate) fn wants_output(&self, depth: usize) -> bool {
        self.accepted == Some(depth)
    }

    /// The captured states, once the whole stack has run.
    pub(crate) fn into_taken(self) -> Option<Tensor<2>> {
        self.taken
    }
}

impl Probe for Tap<'_> {
    fn layer(&mut self, index: usize, hidden: &Tensor<2>) {
        if self.accepted == Some(index + 1) {
            self.taken = Some(hidden.clone());
        }
        if let Some(inner) = self.inner.as_mut().filter(|inner| inner.wants_layer(index)) {
            inner.layer(index, hidden);
        }
    }

    fn wants_layer(&self, index: usize) -> bool {
        self.accepted == Some(index + 1) || self.inner.as_ref().is_some_and(|inner| inner.wants_layer(index))
    }

    fn routing(&mut self, index: usize, routing: &Routing) {
        if let Some(inner) = &mut self.inner {
            inner.routing(index, routing);
        }
    }

    fn wants_routing(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.wants_routing())
    }
}
