use std::collections::BTreeMap;

use super::Reward;
use crate::data::Line;
use crate::{Error, Result};

/// The weighted sum of several rewards.
///
/// ```
/// use qwen3_omni_train::reward::{Rule, Weighted};
///
/// let reward = Weighted::new(vec![(1.0, Box::new(Rule::Number)), (0.2, Box::new(Rule::Json))])?;
/// # Ok::<(), qwen3_omni_train::Error>(())
/// ```
pub struct Weighted(Vec<(f64, Box<dyn Reward>)>);

impl Weighted {
    /// Takes rewards with their weights.
    ///
    /// # Errors
    /// [`Error::Option`] for no reward, or a weight that is 0 or not a finite number.
    pub fn new(rewards: Vec<(f64, Box<dyn Reward>)>) -> Result<Self> {
        let refuse = |reason: String| Err(Error::Option { name: "reward", reason });
        match rewards.iter().find(|(weight, _)| *weight == 0.0 || !weight.is_finite()) {
            Some((weight, _)) => refuse(format!("the weight {weight}, expected a number other than 0")),
            None if rewards.is_empty() => refuse("none, expected one or more".into()),
            None => Ok(Self(rewards)),
        }
    }
}

impl std::fmt::Debug for Weighted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(weight, _)| weight)).finish()
    }
}

impl Reward for Weighted {
    fn score(&self, line: &Line, answers: &[String]) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; answers.len()];
        for (weight, reward) in &self.0 {
            let scores = reward.score(line, answers)?;
            if scores.len() != sums.len() {
                let (found, expected) = (scores.len(), sums.len());
                return Err(line.location.refuse(format!("{found} rewards of {expected} answers, expected as many")));
            }
            sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += weight * score);
        }
        Ok(sums)
    }

    fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (name, count) in self.0.iter().flat_map(|(_, reward)| reward.take_counts()) {
            *counts.entry(name).or_default() += count;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::data::Location;
    use crate::reward::Rule;

    /// Gives one score, however many answers there are.
    struct One;

    impl Reward for One {
        fn score(&self, _: &Line, _: &[String]) -> Result<Vec<f64>> {
            Ok(vec![1.0])
        }

        fn take_counts(&self) -> BTreeMap<&'static str, u64> {
            BTreeMap::from([("asked", 2)])
        }
    }

    fn line() -> Line {
        let json = r#"{"messages": [{"role": "user", "content": "1 + 1?"}], "solution": 2}"#;
        Line::parse(json, &Location { path: Arc::from(Path::new("sums.jsonl")), line: 1 }).unwrap()
    }

    #[test]
    fn rewards_are_added_by_their_weights() {
        let reward = Weighted::new(vec![(1.0, Box::new(Rule::Number)), (-0.5, Box::new(Rule::Json))]).unwrap();
        let answers = ["it is 2", "2", "3", "none"].map(String::from);
        assert_eq!(reward.score(&line(), &answers).unwrap(), [1.0, 0.5, -0.5, 0.0]);
    }

    #[test]
    fn counts_add_up_and_missing_scores_are_an_error() {
        let reward = Weighted::new(vec![(1.0, Box::new(One)), (1.0, Box::new(One))]).unwrap();
        assert_eq!(reward.take_counts()["asked"], 4);
        let error = reward.score(&line(), &["a".into(), "b".into()]).unwrap_err().to_string();
        assert!(error.contains("sums.jsonl:1") && error.contains("1 rewards of 2"), "{error}");
        for weight in [0.0, f64::NAN, f64::INFINITY] {
            assert!(Weighted::new(vec![(weight, Box::new(One))]).is_err(), "{weight}");
        }
        assert!(Weighted::new(Vec::new()).is_err());
    }
}
