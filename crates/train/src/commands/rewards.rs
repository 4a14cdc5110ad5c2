use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use qwen3_omni::Device;
use qwen3_omni_train::reward::{CommandReward, Judge, Reward, Rule, Weighted};
use qwen3_omni_train::{Error, Result};

/// How answers are rewarded.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct RewardArguments {
    /// What scores an answer, with its weight if several do: a rule, which compares with the line's `solution` (exact, number, choice,
    /// words or json), `command` or `judge`.
    #[arg(long, value_name = "NAME[=WEIGHT]")]
    reward: Vec<WeightedName>,
    /// Program that scores answers: it reads `{"messages": …, "extra": …, "answers": […]}` and prints one number for each answer.
    #[arg(long, value_name = "COMMAND")]
    reward_command: Option<String>,
    /// Checkpoint that scores answers: it is asked how good they are, and the score is read from what it says.
    #[arg(long, value_name = "DIR")]
    reward_judge: Option<PathBuf>,
    /// Text file with what the judge is asked, with {question}, {reference} and {answer} in it. The judge is to end with `Score: N`, where
    /// N is 0 to 10.
    #[arg(long, value_name = "FILE", requires = "reward_judge")]
    judge_prompt: Option<PathBuf>,
}

/// A reward's name with its weight, 1 if none is given.
#[derive(Debug, Clone, PartialEq)]
struct WeightedName {
    name: Name,
    weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Rule(Rule),
    Command,
    Judge,
}

impl FromStr for WeightedName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
        let weight = weight.parse().map_err(|_| Error::Option {
            name: "reward",
            reason: format!("`{text}`, expected a number behind `=`, as {name}=0.5"),
        })?;
        let name = match name {
            "command" => Name::Command,
            "judge" => Name::Judge,
            rule => Name::Rule(rule.parse()?),
        };
        Ok(Self { name, weight })
    }
}

impl RewardArguments {
    /// Refuses rewards without sense before a model is loaded.
    pub(super) fn check(&self) -> Result<()> {
        let (mut rewards, prompt) = (self.without_judge()?, self.judge_prompt()?);
        if let Some(weight) = self.weight(Name::Judge, "reward_judge", self.reward_judge.is_some())? {
            Judge::check_prompt(prompt.as_deref())?;
            // In the judge's place, for its weight.
            rewards.push((weight, Box::new(Rule::Exact)));
        }
        Weighted::new(rewards).map(drop)
    }

    /// Makes the sum of all that was asked for; `group` answers are judged at once.
    pub(super) fn reward(&self, group: usize, device: &Device) -> Result<Weighted> {
        let (mut rewards, judge) = (self.without_judge()?, self.reward_judge.as_deref());
        if let (Some(weight), Some(directory)) = (self.weight(Name::Judge, "reward_judge", judge.is_some())?, judge) {
            let judge = Judge::open(directory, self.judge_prompt()?, group, device.clone())?;
            rewards.push((weight, Box::new(judge)));
        }
        Weighted::new(rewards)
    }

    /// The rules and the program that score answers.
    fn without_judge(&self) -> Result<Vec<(f64, Box<dyn Reward>)>> {
        let mut rewards: Vec<(f64, Box<dyn Reward>)> = Vec::new();
        for WeightedName { name, weight } in &self.reward {
            if let Name::Rule(rule) = name {
                rewards.push((*weight, Box::new(*rule)));
            }
        }
        if let Some(weight) = self.weight(Name::Command, "reward_command", self.reward_command.is_some())? {
            let command = self.reward_command.as_deref().unwrap_or_default();
            rewards.push((weight, Box::new(CommandReward::new(command)?)));
        }
        Ok(rewards)
    }

    fn judge_prompt(&self) -> Result<Option<String>> {
        let read =
            |path: &PathBuf| std::fs::read_to_string(path).map_err(|source| omni_core::Error::io(path, source).into());
        self.judge_prompt.as_ref().map(read).transpose()
    }

    /// The weight of a reward that has an argument of its own; `None` if neither it nor the weight is given.
    fn weight(&self, wanted: Name, argument: &'static str, is_given: bool) -> Result<Option<f64>> {
        let named = self.reward.iter().find(|reward| reward.name == wanted).map(|reward| reward.weight);
        match named {
            Some(_) if !is_given => {
                let reason = "missing, expected it with its weight in `--reward`".into();
                Err(Error::Option { name: argument, reason })
            }
            named => Ok(is_given.then(|| named.unwrap_or(1.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_weights() {
        let parsed = |text: &str| text.parse::<WeightedName>().map(|named| (named.name, named.weight));
        assert_eq!(parsed("number").unwrap(), (Name::Rule(Rule::Number), 1.0));
        assert_eq!(parsed("json=0.2").unwrap(), (Name::Rule(Rule::Json), 0.2));
        assert_eq!(parsed("judge=-2").unwrap(), (Name::Judge, -2.0));
        assert!(parsed("json=much").unwrap_err().to_string().contains("json=much"));
        assert!(parsed("vibes").unwrap_err().to_string().contains("exact, number"));
    }
}
