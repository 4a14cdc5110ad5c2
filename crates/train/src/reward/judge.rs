use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use qwen3_omni::{Device, GenerateOptions, Message, Omni, Part};

use super::Reward;
use super::rule::solution;
use crate::at_once::{admitted, at_once};
use crate::data::Line;
use crate::{Error, Result};

/// A model that scores answers: it is asked how good an answer is, and the score is read from what it says.
///
/// A judgement without a score says nothing of its answer, which then gets the mean of the other answers' scores: it is neither better
/// nor worse than they are. Such judgements are counted.
#[derive(Debug)]
pub struct Judge {
    omni: Omni,
    prompt: String,
    at_once: usize,
    judgements: AtomicU64,
    unparsable: AtomicU64,
}

/// What a judge is asked by default.
const PROMPT: &str = "You are grading an answer to a question.

Question: {question}
Reference answer: {reference}
Answer to grade: {answer}

Say briefly what is right and what is wrong in it. Then end with a line `Score: N`, where N is a whole number from 0 (wrong or no answer) \
to 10 (right and complete).";

/// The best score that a judge can give.
const BEST: f64 = 10.0;
/// Most tokens of a judgement.
const MAX_NEW_TOKENS: usize = 512;

impl Judge {
    /// Loads a checkpoint that judges up to `at_once` answers at a time. In `prompt`, `{question}`, `{reference}` and `{answer}` stand for
    /// the last message of the prompt, the line's `solution` and the answer; a line of it with `{reference}` is left out where there is no
    /// solution. Without one, a prompt of its own asks for a last line `Score: N`, 0 to 10.
    ///
    /// # Errors
    /// The errors of the checkpoint, and [`Error::Option`] for a prompt without `{answer}`.
    pub fn open(directory: &Path, prompt: Option<String>, at_once: usize, device: Device) -> Result<Self> {
        Self::check_prompt(prompt.as_deref())?;
        let prompt = prompt.unwrap_or_else(|| PROMPT.into());
        let omni = Omni::builder(directory).device(device).text_only().max_answers(admitted(at_once.max(1))).load()?;
        let (judgements, unparsable) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { omni, prompt, at_once: at_once.max(1), judgements, unparsable })
    }

    /// Checks what a judge is to be asked, without one.
    ///
    /// # Errors
    /// [`Error::Option`] for a prompt without `{answer}`.
    pub fn check_prompt(prompt: Option<&str>) -> Result<()> {
        if prompt.is_some_and(|prompt| !prompt.contains("{answer}")) {
            let reason = "no `{answer}` in it, expected one: it stands for what is to be judged".into();
            return Err(Error::Option { name: "judge_prompt", reason });
        }
        Ok(())
    }

    /// What it is asked about an answer: the media of the question, then the text.
    fn ask(&self, line: &Line, answer: &str) -> Message {
        let media = line.prompt().iter().flat_map(Message::parts).filter(|part| !matches!(part, Part::Text(_)));
        let asked = media.fold(Message::user(), |asked, part| asked.part(part.clone()));
        let question = line.prompt().last().map(text).unwrap_or_default();
        asked.text(filled(&self.prompt, &question, solution(line).as_deref(), answer))
    }

    fn judge(&self, line: &Line, answers: &[String]) -> Result<Vec<Option<f64>>> {
        let options = GenerateOptions::default().text_only().max_new_tokens(MAX_NEW_TOKENS);
        let asked: Vec<[Message; 1]> = answers.iter().map(|answer| [self.ask(line, answer)]).collect();
        let replies = at_once(&self.omni, asked.iter().map(|message| (&message[..], options.clone())));
        let replies = replies.map_err(|error| line.blame(error))?;
        Ok(replies.iter().map(|reply| score(&reply.text)).collect())
    }
}

impl Reward for Judge {
    /// Scores between 0 and 1.
    fn score(&self, line: &Line, answers: &[String]) -> Result<Vec<f64>> {
        let judged = answers.chunks(self.at_once).map(|answers| self.judge(line, answers));
        let judged = judged.collect::<Result<Vec<_>>>()?.concat();
        let unparsable = judged.iter().filter(|score| score.is_none()).count();
        self.judgements.fetch_add(judged.len() as u64, Ordering::Relaxed);
        self.unparsable.fetch_add(unparsable as u64, Ordering::Relaxed);
        let known = (judged.len() - unparsable) as f64;
        let mean = judged.iter().flatten().sum::<f64>() / known.max(1.0);
        Ok(judged.into_iter().map(|score| score.unwrap_or(mean)).collect())
    }

    fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        BTreeMap::from([("judgements", take(&self.judgements)), ("judgements_without_score", take(&self.unparsable))])
    }
}

fn text(message: &Message) -> String {
    let texts =
        message.parts().iter().filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None });
    texts.collect()
}

/// Puts texts in place of their names, each once: what a text holds is not taken for a name.
fn filled(prompt: &str, question: &str, reference: Option<&str>, answer: &str) -> String {
    let lines = prompt.split('\n').filter(|line| reference.is_some() || !line.contains("{reference}"));
    let fill = |line: &str| {
        let (mut filled, mut rest) = (String::new(), line);
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let values =
                [("{question}", question), ("{reference}", reference.unwrap_or_default()), ("{answer}", answer)];
            let (taken, value) = values.into_iter().find(|(name, _)| rest.starts_with(name)).unwrap_or(("{", "{"));
            filled.push_str(value);
            rest = &rest[taken.len()..];
        }
        filled + rest
    };
    lines.map(fill).collect::<Vec<_>>().join("\n")
}

/// The score of a judgement, between 0 and 1: the number behind the last `score` that has one, from 0 to 10. It may be written `7/10`.
fn score(judgement: &str) -> Option<f64> {
    let lower = judgement.to_ascii_lowercase();
    let (number, after) = lower.rmatch_indices("score").find_map(|(at, word)| number(&lower[at + word.len()..]))?;
    let out_of = after.trim_start().strip_prefix('/').map(|after| number_at_start(after.trim_start()).0);
    let fits = out_of.is_none_or(|best| best.parse() == Ok(BEST)) && (0.0..=BEST).contains(&number);
    fits.then_some(number / BEST)
}

/// The number behind `score`, as in `**Score:** 7` or `score is 7`, and what follows it.
fn number(behind: &str) -> Option<(f64, &str)> {
    let without_signs = |text: &'_ str| -> usize {
        text.find(|c: char| !c.is_whitespace() && !"*:=_`".contains(c)).unwrap_or(text.len())
    };
    let behind = &behind[without_signs(behind)..];
    let behind = behind.strip_prefix("is ").unwrap_or(behind);
    let (number, after) = number_at_start(&behind[without_signs(behind)..]);
    Some((number.parse().ok()?, after))
}

/// Splits a text behind the number that it begins with.
fn number_at_start(text: &str) -> (&str, &str) {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let (number, after) = text.split_at(text.len() - digits.len() + end);
    (number.trim_end_matches('.'), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_found_where_judges_write_them() {
        for (judgement, expected) in [
            ("It is right.\nScore: 10", Some(1.0)),
            ("**Score:** 7/10.", Some(0.7)),
            ("A score of 3 seems low.\nscore is **4**", Some(0.4)),
            ("Score: 2.5", Some(0.25)),
            ("Score: 0", Some(0.0)),
            ("Score: 8 / 10", Some(0.8)),
            ("Score: 6. I give no other scores.", Some(0.6)),
            // Out of another best, beyond it, below 0, or none.
            ("Score: 3/5", None),
            ("Score: 11", None),
            ("Score: -1", None),
            ("Score: high", None),
            ("10", None),
            ("", None),
        ] {
            assert_eq!(score(judgement), expected, "{judgement:?}");
        }
    }

    #[test]
    fn answers_cannot_write_into_the_prompt() {
        let prompt = "Q {question}\nR {reference}\nA {answer} {other}";
        assert_eq!(filled(prompt, "q {answer}", Some("r"), "{question}"), "Q q {answer}\nR r\nA {question} {other}");
        assert_eq!(filled(prompt, "q", None, "a"), "Q q\nA a {other}");
    }
}
