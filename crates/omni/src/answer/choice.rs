//! The choice of an answer's tokens: those of a given text first, then from the logits, through the application's hook.

use std::collections::VecDeque;

use nn::Sampler;
use nn::sampler::{Logits, NEVER, Suppressed};
use omni_core::{Error, Result};

use crate::output::{LogProb, TokenLogProbs};
use crate::prompt::{GivenText, Hook, Prompt, TokenHook};

/// The name of the thinker's stage in errors.
const STAGE: &str = "thinker";

/// Chooses the tokens of one answer.
pub(super) struct Choice {
    sampler: Sampler,
    given: VecDeque<u32>,
    /// Whether the answer ends with the given text.
    only_given: bool,
    hook: Option<Hook>,
    /// Number of alternatives whose log-probabilities are wanted.
    log_probs: Option<usize>,
}

/// The next token; `None` for the end of a given text that is the whole answer.
pub(super) type Chosen = Option<(u32, Option<TokenLogProbs>)>;

impl Choice {
    pub(super) fn new(prompt: &mut Prompt) -> Self {
        let hook = prompt.hook.take();
        let options = prompt.options();
        let seed = options.stage_seed(options.thinker.seed);
        let sampling = options.thinker.clone().seed(seed);
        let mut sampler = Sampler::new(&sampling, Suppressed::default());
        // As in the reference, the repetition penalty acts on the prompt as well.
        sampler.accept_prompt(prompt.ids());
        Self {
            sampler,
            given: prompt.given.iter().copied().collect(),
            only_given: matches!(options.given, GivenText::Whole(_)),
            hook,
            log_probs: options.log_probs,
        }
    }

    /// Chooses the next token.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a logit is NaN or infinite; the hook's errors.
    pub(super) fn choose(&mut self, logits: Logits) -> Result<Chosen> {
        if self.given.is_empty() && self.only_given {
            return Ok(None);
        }
        let row = self.log_probs.map(|count| (log_softmax(logits.to_vec()), count));
        let id = match self.given.pop_front() {
            Some(id) => {
                self.sampler.accept(id);
                id
            }
            None => self.sample(logits)?,
        };
        if let Some(hook) = &mut self.hook {
            hook.0.observe(id)?;
        }
        Ok(Some((id, row.map(|(row, count)| token_log_probs(id, &row, count)))))
    }

    fn sample(&mut self, logits: Logits) -> Result<u32> {
        let logits = match &mut self.hook {
            Some(hook) => Logits::Host(masked(&mut *hook.0, logits.to_vec())?),
            None => logits,
        };
        let id = self.sampler.sample(logits);
        self.sampler.check(STAGE)?;
        Ok(id)
    }
}

/// Lets the hook change logits, and checks what it leaves.
fn masked(hook: &mut dyn TokenHook, mut row: Vec<f32>) -> Result<Vec<f32>> {
    if row.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::NotFinite { stage: STAGE });
    }
    hook.mask(&mut row)?;
    row.iter_mut().filter(|logit| **logit < NEVER).for_each(|logit| *logit = NEVER);
    if row.iter().all(|logit| *logit <= NEVER) {
        return Err(Error::Request("the token hook forbids every token".into()));
    }
    Ok(row)
}

fn log_softmax(mut row: Vec<f32>) -> Vec<f32> {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
    let shift = greatest + sum.ln() as f32;
    row.iter_mut().for_each(|logit| *logit -= shift);
    row
}

/// Log-probabilities at a token whose text is not known yet.
fn token_log_probs(id: u32, row: &[f32], count: usize) -> TokenLogProbs {
    let entry = |id: u32| LogProb { id, log_prob: row.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY) };
    let mut ids: Vec<u32> = (0..row.len() as u32).collect();
    let count = count.min(ids.len());
    let best_first = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if count < ids.len() {
        ids.select_nth_unstable_by(count, best_first);
        ids.truncate(count);
    }
    ids.sort_unstable_by(best_first);
    TokenLogProbs { token: entry(id), best: ids.into_iter().map(entry).collect(), text_end: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax_best_first() {
        let row = log_softmax([0.5f32, 0.3, 0.2].map(f32::ln).to_vec());
        let found = token_log_probs(2, &row, 2);
        let near = |found: f32, expected: f32| (found.exp() - expected).abs() < 1e-6;
        assert!(found.token.id == 2 && near(found.token.log_prob, 0.2));
        assert_eq!(found.best.iter().map(|entry| entry.id).collect::<Vec<_>>(), [0, 1]);
        assert!(near(found.best[0].log_prob, 0.5) && near(found.best[1].log_prob, 0.3));
        assert_eq!(token_log_probs(0, &row, 9).best.len(), 3);
    }

    #[test]
    fn a_hook_may_forbid_any_token_but_not_all() {
        struct Keep(Option<usize>);
        impl TokenHook for Keep {
            fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
                for (id, logit) in logits.iter_mut().enumerate() {
                    *logit = if Some(id) == self.0 { *logit } else { f32::NEG_INFINITY };
                }
                Ok(())
            }
        }
        assert_eq!(masked(&mut Keep(Some(1)), vec![5.0, 1.0, 2.0]).unwrap(), [NEVER, 1.0, NEVER]);
        assert!(masked(&mut Keep(None), vec![5.0, 1.0]).unwrap_err().to_string().contains("every token"));
        assert!(matches!(masked(&mut Keep(Some(0)), vec![f32::NAN, 1.0]), Err(Error::NotFinite { .. })));
    }
}
