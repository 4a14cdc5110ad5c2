use crate::{Error, Result};

/// Chooses the source of each sample so that the sources' shares of all tokens are as asked for.
///
/// The source with the largest `share · (tokens so far + 1) − its tokens` is next; of equals the first. Nothing is random: the counts
/// are the whole state.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    shares: Vec<f64>,
    tokens: Vec<f64>,
}

impl Mixture {
    /// Takes the sources' weights, in any unit.
    ///
    /// # Errors
    /// [`Error::Option`] for no weights, a negative or infinite one, or none above 0.
    pub fn new(weights: &[f64]) -> Result<Self> {
        let sum: f64 = weights.iter().sum();
        if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || sum <= 0.0 {
            let reason = format!("{weights:?}, expected one number per source, 0 or more, and one above 0");
            return Err(Error::Option { name: "mixture", reason });
        }
        let shares = weights.iter().map(|weight| weight / sum).collect();
        Ok(Self { shares, tokens: vec![0.0; weights.len()] })
    }

    /// The source of the next sample.
    pub fn next_source(&self) -> usize {
        let all = self.tokens.iter().sum::<f64>() + 1.0;
        let lack = |source: usize| self.shares[source] * all - self.tokens[source];
        (1..self.shares.len()).fold(0, |best, source| if lack(source) > lack(best) { source } else { best })
    }

    /// Counts the tokens of a sample that a source gave.
    pub fn count(&mut self, source: usize, tokens: usize) {
        self.tokens[source] += tokens as f64;
    }

    /// Tokens that each source gave.
    pub fn tokens(&self) -> &[f64] {
        &self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_whatever_the_lengths() {
        let mut mixture = Mixture::new(&[3.0, 1.0, 0.0]).unwrap();
        for sample in 0..1000 {
            let source = mixture.next_source();
            mixture.count(source, 10 + sample * 37 % 300);
        }
        let [a, b, none] = [0, 1, 2].map(|source| mixture.tokens()[source]);
        assert!((a / b - 3.0).abs() < 0.02 && none == 0.0, "{a} to {b} to {none}");
    }

    #[test]
    fn weights_without_sense_are_refused() {
        for weights in [&[][..], &[0.0, 0.0], &[1.0, -1.0], &[f64::NAN]] {
            assert!(Mixture::new(weights).is_err(), "{weights:?}");
        }
    }
}
