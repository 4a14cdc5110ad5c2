use crate::Result;

/// A part of the pipeline that is fed piece by piece.
///
/// Weights are `&self`; everything that changes lives in the state. One loaded stage serves many states at once,
/// and resetting is dropping the state. Prefill and decode are the same call with different lengths.
pub trait Stage: Send + Sync {
    /// What one run carries from step to step.
    type State: Send;
    /// One piece of input.
    type Input;
    /// What a piece of input gives; "nothing yet" is an empty output, not an error.
    type Output;

    /// A fresh state.
    fn start(&self) -> Self::State;

    /// Takes one piece of input.
    ///
    /// # Errors
    /// If the state is full (context length) or the input cannot be taken.
    fn step(&self, state: &mut Self::State, input: Self::Input) -> Result<Self::Output>;

    /// Flushes what the state still holds back. `None` if nothing is held back.
    ///
    /// # Errors
    /// As [`Stage::step`].
    fn finish(&self, state: &mut Self::State) -> Result<Option<Self::Output>>;
}
