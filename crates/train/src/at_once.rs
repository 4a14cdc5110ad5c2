use std::thread;

use qwen3_omni::{GenerateOptions, Message, Omni, Reply};

use crate::{Error, Result};

/// Answers several conversations concurrently, each with its own options, so that they share a batch. Replies come in the order of the
/// conversations; there must be no more of them than the model was loaded to answer at once.
///
/// # Errors
/// The first error of a conversation, in their order.
pub(crate) fn at_once<'m>(
    omni: &Omni,
    asked: impl IntoIterator<Item = (&'m [Message], GenerateOptions)>,
) -> Result<Vec<Reply>> {
    thread::scope(|scope| {
        let ask = |(messages, options)| scope.spawn(move || omni.generate(messages, &options));
        let answers: Vec<_> = asked.into_iter().map(ask).collect();
        let join = |answer: thread::ScopedJoinHandle<'_, _>| {
            let stopped = || omni_core::Error::Device("an answer's thread ended in a panic".into());
            answer.join().map_err(|_| stopped())?
        };
        answers.into_iter().map(|answer| join(answer).map_err(Error::from)).collect()
    })
}

/// The `max_answers` to load a model with, to answer `count` conversations at once: one may begin before the previous one has released
/// its slot.
pub(crate) fn admitted(count: usize) -> usize {
    count.saturating_mul(2)
}

/// A seed for each number, spread over all seeds.
pub(crate) fn spread_seed(seed: u64, number: u64) -> u64 {
    seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
