//! Contractions and titles, written out.

use std::sync::LazyLock;

use regex::Regex;

/// What is replaced by what, in this order. A word ends at the end of each pattern; it begins there, too, unless that is an apostrophe
/// or `n't`.
const CONTRACTIONS: [(&str, &str); 49] = [
    ("won't", "will not"),
    ("can't", "can not"),
    ("let's", "let us"),
    ("ain't", "aint"),
    ("y'all", "you all"),
    ("wanna", "want to"),
    ("gotta", "got to"),
    ("gonna", "going to"),
    ("i'ma", "i am going to"),
    ("imma", "i am going to"),
    ("woulda", "would have"),
    ("coulda", "could have"),
    ("shoulda", "should have"),
    ("ma'am", "madam"),
    // Titles.
    ("mr", "mister "),
    ("mrs", "missus "),
    ("st", "saint "),
    ("dr", "doctor "),
    ("prof", "professor "),
    ("capt", "captain "),
    ("gov", "governor "),
    ("ald", "alderman "),
    ("gen", "general "),
    ("sen", "senator "),
    ("rep", "representative "),
    ("pres", "president "),
    ("rev", "reverend "),
    ("hon", "honorable "),
    ("asst", "assistant "),
    ("assoc", "associate "),
    ("lt", "lieutenant "),
    ("col", "colonel "),
    ("jr", "junior "),
    ("sr", "senior "),
    ("esq", "esquire "),
    // Perfect tenses of common verbs.
    ("'d been", " had been"),
    ("'s been", " has been"),
    ("'d gone", " had gone"),
    ("'s gone", " has gone"),
    ("'d done", " had done"),
    ("'s got", " has got"),
    // Endings.
    ("n't", " not"),
    ("'re", " are"),
    ("'s", " is"),
    ("'d", " would"),
    ("'ll", " will"),
    ("'t", " not"),
    ("'ve", " have"),
    ("'m", " am"),
];

static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let begins = |short: &str| if short.starts_with('\'') || short == "n't" { "" } else { r"\b" };
    let pattern = |short: &str| Regex::new(&format!(r"{}{short}\b", begins(short))).expect("a valid pattern");
    CONTRACTIONS.iter().map(|(short, long)| (pattern(short), *long)).collect()
});

/// Writes out the contractions of a text in lower case.
pub(super) fn written_out(text: String) -> String {
    PATTERNS.iter().fold(text, |text, (pattern, long)| pattern.replace_all(&text, *long).into_owned())
}
