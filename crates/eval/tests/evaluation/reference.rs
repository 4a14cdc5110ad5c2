//! The normalisers and edit counts against the Python packages they follow.

use qwen3_omni_eval::normalise::{basic, characters, english};
use qwen3_omni_eval::wer::{Edits, corpus};
use serde::Deserialize;

fn fixture<T: for<'de> Deserialize<'de>>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

#[derive(Deserialize)]
struct Normalised {
    input: String,
    english: String,
    basic: String,
    characters: String,
}

#[test]
fn texts_are_normalised_as_by_whisper_normalizer() {
    let cases: Vec<Normalised> = fixture(include_str!("../../fixtures/normalised.json"));
    assert!(cases.len() >= 600);
    let mut wrong = Vec::new();
    for case in &cases {
        let made = [english, basic, characters].map(|normalise| normalise(&case.input));
        let expected = [&case.english, &case.basic, &case.characters];
        if made.iter().ne(expected) {
            wrong.push(format!("{:?}\n  made     {made:?}\n  expected {expected:?}", case.input));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[derive(Deserialize)]
struct Counted {
    reference: String,
    hypothesis: String,
    words: [usize; 4],
    characters: [usize; 4],
}

fn counts(edits: Edits) -> [usize; 4] {
    [edits.hits, edits.substitutions, edits.deletions, edits.insertions]
}

#[test]
fn edits_are_counted_as_by_jiwer() {
    let cases: Vec<Counted> = fixture(include_str!("../../fixtures/edits.json"));
    assert!(cases.len() >= 150);
    for Counted { reference, hypothesis, words, characters } in &cases {
        assert_eq!(counts(Edits::words(reference, hypothesis)), *words, "{reference:?} and {hypothesis:?}");
        let made = counts(Edits::characters(reference, hypothesis));
        assert_eq!(made, *characters, "{reference:?} and {hypothesis:?}, by character");
    }
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Pair>,
    corpus_english: Corpus,
}

#[derive(Deserialize)]
struct Corpus {
    wer: f64,
    words: usize,
}

#[derive(Deserialize)]
struct Pair {
    reference: String,
    hypothesis: String,
    english: Option<Side>,
    basic: Option<Side>,
    characters: Option<Side>,
}

#[derive(Deserialize)]
struct Side {
    reference: String,
    hypothesis: String,
    #[serde(flatten)]
    edits: Edits,
    reference_words: usize,
}

impl Side {
    /// Checks both texts and the counts between them.
    fn check(&self, pair: &Pair, normalise: fn(&str) -> String) {
        let [reference, hypothesis] = [&pair.reference, &pair.hypothesis].map(|text| normalise(text));
        assert_eq!((&reference, &hypothesis), (&self.reference, &self.hypothesis));
        let edits = Edits::words(&reference, &hypothesis);
        assert_eq!((edits, edits.reference_words()), (self.edits, self.reference_words), "{reference} | {hypothesis}");
    }
}

#[test]
fn golden_pairs_have_their_rates() {
    let golden: Golden = fixture(include_str!("../../fixtures/wer.json"));
    let mut english_edits = Vec::new();
    for pair in &golden.cases {
        let sides =
            [(&pair.english, english as fn(&str) -> String), (&pair.basic, basic), (&pair.characters, characters)];
        for (side, normalise) in sides {
            side.iter().for_each(|side| side.check(pair, normalise));
        }
        english_edits.extend(pair.english.as_ref().map(|side| side.edits));
    }
    let sum = corpus(english_edits);
    assert_eq!(sum.reference_words(), golden.corpus_english.words);
    assert!((sum.rate().unwrap() - golden.corpus_english.wer).abs() < 1e-12);
}
