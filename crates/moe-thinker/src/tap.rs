use burn::tensor::Tensor;
use nn::Probe;
use nn::moe::Routing;

/// Takes the states of the accepted layer on their way, and shows everything to another probe.
///
/// Numbering as in the reference: 0 is the stack's input, `k` the raw output of layer `k - 1` (before any deepstack
/// addition), and the number of layers the output after the final norm.
pub(crate) struct Tap<'a> {
    accepted: Option<usize>,
    inner: &'a mut dyn Probe,
    pub(crate) taken: Option<Tensor<3>>,
}

impl<'a> Tap<'a> {
    pub(crate) fn new(accepted: Option<usize>, input: &Tensor<3>, inner: &'a mut dyn Probe) -> Self {
        Self { accepted, inner, taken: (accepted == Some(0)).then(|| input.clone()) }
    }

    /// The states, once the whole stack has run; `output` is after the final norm.
    pub(crate) fn finish(self, depth: usize, output: &Tensor<3>) -> Option<Tensor<3>> {
        match self.accepted {
            Some(accepted) if accepted == depth => Some(output.clone()),
            _ => self.taken,
        }
    }
}

impl Probe for Tap<'_> {
    fn layer(&mut self, index: usize, hidden: &Tensor<3>) {
        if self.accepted == Some(index + 1) {
            self.taken = Some(hidden.clone());
        }
        self.inner.layer(index, hidden);
    }

    fn looks_at(&self, index: usize) -> bool {
        self.accepted == Some(index + 1) || self.inner.looks_at(index)
    }

    fn looks_at_routing(&self) -> bool {
        self.inner.looks_at_routing()
    }

    fn routing(&mut self, index: usize, routing: &Routing) {
        self.inner.routing(index, routing);
    }
}
