//! British words in American spelling.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Lines of a British and an American word with a tab between them; `#` begins a comment.
const PAIRS: &str = include_str!("../../data/british.tsv");

static AMERICAN: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let lines = PAIRS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('\t')).collect()
});

/// Spells each word as Americans do, with single spaces between words.
pub(super) fn american(text: &str) -> String {
    let words = text.split_whitespace().map(|word| AMERICAN.get(word).copied().unwrap_or(word));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_are_read() {
        assert_eq!(AMERICAN.len(), 1739);
        assert_eq!(american("the  grey colour"), "the gray color");
    }
}
