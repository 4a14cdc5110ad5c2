//! Figures of a run.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::normalise::Normaliser;
use crate::run::{Outcome, Outcomes, Settings};
use crate::score::Score;
use crate::suites::Suite;
use crate::wer::{Edits, corpus};

/// Figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The suite.
    pub suite: Suite,
    /// What the figures depend on.
    pub settings: Settings,
    /// Items that were measured.
    pub items: usize,
    /// Figures by name, rates between 0 and 1.
    pub measures: Map<String, Value>,
    /// Items and the share that is right, by group.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Group>,
    /// Items of this run; the others were done before.
    pub new_items: usize,
    /// Seconds of this run, loading the model not included.
    pub seconds: f64,
    /// Seconds of sound that were heard or spoken in this run.
    pub sound_seconds: f64,
    /// Seconds of this run per second of its sound.
    pub real_time_factor: Option<f64>,
}

/// The items of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Group {
    /// Items that were measured.
    pub items: usize,
    /// Items that are right as a whole.
    pub right: usize,
}

impl Report {
    /// Sums outcomes up.
    pub fn new(suite: Suite, settings: Settings, outcomes: &Outcomes) -> Self {
        let (seconds, sound_seconds) = (outcomes.elapsed.as_secs_f64(), outcomes.sound_seconds);
        Self {
            suite,
            settings,
            items: outcomes.all.len(),
            measures: measures(&outcomes.all),
            groups: groups(&outcomes.all),
            new_items: outcomes.new_items,
            seconds,
            sound_seconds,
            real_time_factor: (sound_seconds > 0.0).then(|| seconds / sound_seconds),
        }
    }
}

fn groups(outcomes: &[Outcome]) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for outcome in outcomes {
        if let Some(name) = &outcome.group {
            let group = groups.entry(name.clone()).or_default();
            group.items += 1;
            group.right += usize::from(outcome.score.is_right());
        }
    }
    groups
}

fn measures(outcomes: &[Outcome]) -> Map<String, Value> {
    let scores = || outcomes.iter().map(|outcome| &outcome.score);
    let mut measures = Map::new();
    transcripts(scores(), &mut measures);
    codecs(scores(), &mut measures);
    answers(scores(), &mut measures);
    grids(scores(), &mut measures);
    let cut_off = outcomes.iter().filter(|outcome| outcome.is_cut_off).count();
    if cut_off > 0 {
        measures.insert("cut_off".into(), json!(share(cut_off, outcomes.len())));
    }
    measures
}

/// Error rates over all words, and the mean of SEED-TTS over utterances.
fn transcripts<'a>(scores: impl Iterator<Item = &'a Score>, measures: &mut Map<String, Value>) {
    let (mut words, mut characters, mut own, mut by_character) = (Vec::new(), Vec::new(), Vec::new(), false);
    for score in scores {
        if let Score::Transcript { normaliser, words: edits, characters: letters, seed_tts } = score {
            words.push(*edits);
            characters.push(*letters);
            own.extend(*seed_tts);
            by_character = *normaliser == Normaliser::Characters;
        }
    }
    if words.is_empty() {
        return;
    }
    let words = corpus(words);
    let (rate, count) = if by_character { ("cer", "characters") } else { ("wer", "words") };
    measures.insert(count.into(), json!(words.reference_words()));
    measures.insert(rate.into(), json!(words.rate()));
    for (kind, errors) in kinds(words) {
        measures.insert(kind.into(), json!(share(errors, words.reference_words())));
    }
    if !by_character {
        measures.insert("cer".into(), json!(corpus(characters).rate()));
    }
    if !own.is_empty() {
        measures.insert("seed_tts_wer".into(), json!(own.iter().sum::<f64>() / own.len() as f64));
    }
}

/// Error rates before a codec and behind it, over the recordings whose words are known, and between both over all.
fn codecs<'a>(scores: impl Iterator<Item = &'a Score>, measures: &mut Map<String, Value>) {
    let (mut all, mut by_character) = ([Vec::new(), Vec::new(), Vec::new()], false);
    for score in scores {
        if let Score::Codec { normaliser, before, after, between, .. } = score {
            all.iter_mut().zip([before, after, between]).for_each(|(all, edits)| all.push(*edits));
            by_character = *normaliser == Normaliser::Characters;
        }
    }
    if all[0].is_empty() {
        return;
    }
    let [before, after, between] = all.map(corpus);
    let (rate, count) = if by_character { ("cer", "characters") } else { ("wer", "words") };
    if before.reference_words() > 0 {
        measures.insert(count.into(), json!(before.reference_words()));
        measures.insert(format!("{rate}_before_codec"), json!(before.rate()));
        measures.insert(format!("{rate}_after_codec"), json!(after.rate()));
    }
    measures.insert(format!("{rate}_after_against_before"), json!(between.rate()));
}

fn kinds(edits: Edits) -> [(&'static str, usize); 3] {
    [("substitutions", edits.substitutions), ("deletions", edits.deletions), ("insertions", edits.insertions)]
}

fn answers<'a>(scores: impl Iterator<Item = &'a Score>, measures: &mut Map<String, Value>) {
    let (mut all, mut right, mut unanswered) = (0, 0, 0);
    for score in scores {
        if let Score::Answer { taken, is_right } = score {
            all += 1;
            right += usize::from(*is_right);
            unanswered += usize::from(taken.is_none());
        }
    }
    if all > 0 {
        measures.insert("accuracy".into(), json!(share(right, all)));
        measures.insert("unanswered".into(), json!(share(unanswered, all)));
    }
}

fn grids<'a>(scores: impl Iterator<Item = &'a Score>, measures: &mut Map<String, Value>) {
    let (mut puzzles, mut solved, mut unanswered, mut right_cells, mut all_cells) = (0, 0, 0, 0, 0);
    for score in scores {
        if let Score::Grid { right, cells, is_answered } = score {
            puzzles += 1;
            solved += usize::from(right == cells);
            unanswered += usize::from(!is_answered);
            right_cells += right;
            all_cells += cells;
        }
    }
    if puzzles > 0 {
        measures.insert("puzzle_accuracy".into(), json!(share(solved, puzzles)));
        measures.insert("cell_accuracy".into(), json!(share(right_cells, all_cells)));
        measures.insert("unanswered".into(), json!(share(unanswered, puzzles)));
    }
}

fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// A table: figures, then groups.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![("suite".to_owned(), self.suite.to_string()), ("items".to_owned(), self.items.to_string())];
        rows.extend(self.measures.iter().map(|(name, value)| (name.replace('_', " "), figure(value))));
        if self.new_items > 0 {
            rows.push(("seconds".into(), format!("{:.1}", self.seconds)));
        }
        if let Some(factor) = self.real_time_factor {
            rows.push(("real time factor".into(), format!("{factor:.3} ({:.1} s of sound)", self.sound_seconds)));
        }
        for (name, Group { items, right }) in &self.groups {
            rows.push((
                format!("right of {name}"),
                format!("{:.2} % ({right} of {items})", 100.0 * share(*right, *items)),
            ));
        }
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

fn figure(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => format!("{:.2} %", 100.0 * number.as_f64().unwrap_or(f64::NAN)),
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}
