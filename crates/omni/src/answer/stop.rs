//! Stop strings: text that ends an answer and belongs to neither its text nor its speech.

use std::collections::VecDeque;

/// Finds stop strings in an answer's text while it is generated. Text that may be the beginning of one is held back, and so are the
/// ids it comes from.
pub(crate) struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    /// Bytes of the answer's text before `held`.
    released: usize,
    /// Spoken ids with the offsets at which their text begins and ends.
    waiting: VecDeque<(u32, usize, usize)>,
    found: bool,
}

impl StopStrings {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new(), released: 0, waiting: VecDeque::new(), found: false }
    }

    /// Takes text of the answer and returns what is certain to be part of it.
    pub(crate) fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        // The stop string that is completed first, so that the result does not depend on token boundaries.
        let found = |stop: &String| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at));
        let first = self.stops.iter().filter_map(found).min().map(|(_, at)| at);
        self.found = first.is_some();
        let certain = first.unwrap_or_else(|| self.held.len() - self.longest_beginning());
        let text: String = self.held.drain(..certain).collect();
        self.released += text.len();
        if self.found {
            self.held.clear();
            let end = self.released;
            self.waiting.retain(|(_, start, _)| *start < end);
        }
        text
    }

    /// Length of the longest end of the held text that a stop string begins with.
    fn longest_beginning(&self) -> usize {
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.into_iter().find(|end| self.stops.iter().any(|stop| stop.starts_with(end))).map_or(0, str::len)
    }

    /// Takes a spoken id whose text lies between two offsets of the answer's text.
    pub(crate) fn push_id(&mut self, id: u32, start: usize, end: usize) {
        if !self.found || start < self.released {
            self.waiting.push_back((id, start, end));
        }
    }

    /// The next id whose text is certain, with the offsets at which that begins and ends.
    pub(crate) fn ready(&mut self) -> Option<(u32, usize, usize)> {
        let (id, start, end) = *self.waiting.front().filter(|(.., end)| self.found || *end <= self.released)?;
        self.waiting.pop_front();
        let end = end.min(self.released);
        Some((id, start.min(end), end))
    }

    /// Where the answer's text ends, if a stop string was found.
    pub(crate) fn cut(&self) -> Option<usize> {
        self.found.then_some(self.released)
    }

    /// The text that was held back, when the answer has ended.
    pub(crate) fn finish(&mut self) -> String {
        self.released += self.held.len();
        std::mem::take(&mut self.held)
    }

    /// Resets the matcher after the thinking part.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(&self.stops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text that is let through, with whether a stop string was found, for pieces of some length.
    fn through(text: &str, stops: &[&str], piece: usize) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut found = StopStrings::new(&stops);
        let letters: Vec<char> = text.chars().collect();
        let mut out: String =
            letters.chunks(piece).map(|piece| found.push(&piece.iter().collect::<String>())).collect();
        if found.cut().is_none() {
            out.push_str(&found.finish());
        }
        (out, found.cut().is_some())
    }

    #[test]
    fn a_stop_string_is_never_let_through_and_everything_before_it_is() {
        for piece in 1..9 {
            assert_eq!(through("one two END three", &["END"], piece), ("one two ".into(), true));
            assert_eq!(through("aab", &["ab", "b"], piece), ("a".into(), true));
            assert_eq!(through("EN or E", &["END"], piece), ("EN or E".into(), false));
            assert_eq!(through("EEND", &["END"], piece), ("E".into(), true));
            assert_eq!(through("\u{e9}\u{e9}x", &["\u{e9}x"], piece), ("\u{e9}".into(), true));
        }
    }

    #[test]
    fn ids_wait_until_their_text_is_certain() {
        let mut stops = StopStrings::new(&["cd".into()]);
        let mut step = |id, text: &str, at: usize| {
            let out = stops.push(text);
            stops.push_id(id, at, at + text.len());
            (out, std::iter::from_fn(|| stops.ready()).map(|(id, ..)| id).collect::<Vec<_>>())
        };
        assert_eq!(step(1, "ab", 0), ("ab".into(), vec![1]));
        assert_eq!(step(2, "c", 2), (String::new(), vec![]));
        assert_eq!(step(3, "e", 3), ("ce".into(), vec![2, 3]));
        assert_eq!(step(4, "c", 4), (String::new(), vec![]));
        assert_eq!(step(5, "d", 5), (String::new(), vec![]));
        assert_eq!(stops.cut(), Some(4));
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(
            text in "[abc]{0,30}",
            stops in proptest::collection::vec("[abc]{1,4}", 1..4),
            piece in 1usize..8,
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (out, found) = through(&text, &stops, piece);
            prop_assert_eq!((&out, found), (&through(&text, &stops, 1).0, stops.iter().any(|stop| text.contains(stop))));
            prop_assert!(text.starts_with(&out) && (found || out == text));
        }
    }
}
