//! What of a text is read aloud: prose, without code, links and markup.

/// Decides, character by character, what of an answer's text is spoken. Decisions come late where a link or a fence may begin.
#[derive(Debug, Default)]
pub(super) struct Prose {
    /// Text that is not decided.
    held: String,
    /// For each byte that is decided, whether it is spoken.
    spoken: Vec<bool>,
    fenced: bool,
    /// Within the address of a link, up to its closing bracket.
    address: bool,
    /// Within a bare address, up to the next blank.
    bare: bool,
    /// Whether the next character begins a line, blanks aside.
    line_start: bool,
    begun: bool,
    last: Option<char>,
}

/// The decision about the beginning of the undecided text.
enum Next {
    /// This many bytes are decided, and whether they are spoken.
    Decided(usize, bool),
    /// More text is needed.
    Unknown,
}

const FENCE: &str = "```";
const ADDRESSES: [&str; 3] = ["http://", "https://", "www."];

impl Prose {
    /// Takes text of the answer.
    pub(super) fn push(&mut self, text: &str) {
        if !self.begun {
            (self.begun, self.line_start) = (true, true);
        }
        self.held.push_str(text);
        self.decide(false);
    }

    /// Decides what was held, when the text has ended.
    pub(super) fn finish(&mut self) {
        self.decide(true);
    }

    /// Whether any of the bytes from `start` to `end` of the text is spoken; `None` if that is not decided.
    pub(super) fn speaks(&self, start: usize, end: usize) -> Option<bool> {
        let decided = self.spoken.get(start..end)?;
        // A token without text, such as half a character, goes with what stands before it.
        let before = || start == 0 || self.spoken[start - 1];
        Some(if start == end { before() } else { decided.contains(&true) })
    }

    /// For each byte of the text, whether it is spoken.
    pub(super) fn into_spoken(self) -> Vec<bool> {
        self.spoken
    }

    fn decide(&mut self, over: bool) {
        loop {
            match self.next(over) {
                Next::Decided(0, _) | Next::Unknown => return,
                Next::Decided(bytes, spoken) => {
                    self.spoken.extend(std::iter::repeat_n(spoken, bytes));
                    self.held.drain(..bytes);
                }
            }
        }
    }

    fn next(&mut self, over: bool) -> Next {
        let Some(first) = self.held.chars().next() else { return Next::Unknown };
        let known = |marker: &str| over || self.held.len() >= marker.len() || !marker.starts_with(&*self.held);
        if self.line_start && first == '`' {
            if !known(FENCE) {
                return Next::Unknown;
            }
            if self.held.starts_with(FENCE) {
                let Some(end) = self.held.find('\n').map(|end| end + 1).or(over.then_some(self.held.len())) else {
                    return Next::Unknown;
                };
                self.fenced = !self.fenced;
                return Next::Decided(end, false);
            }
        }
        if self.fenced {
            self.line_start = first == '\n' || (self.line_start && first.is_whitespace());
            return Next::Decided(first.len_utf8(), false);
        }
        if !self.last.is_some_and(char::is_alphanumeric) && !self.address && !self.bare {
            if ADDRESSES.iter().any(|address| !known(address)) {
                return Next::Unknown;
            }
            self.bare = ADDRESSES.iter().any(|address| self.held.starts_with(address));
        }
        let second = self.held.chars().nth(1);
        if matches!(first, ']' | '!' | '-' | '+') && second.is_none() && !over {
            return Next::Unknown;
        }
        Next::Decided(first.len_utf8(), self.is_spoken(first, second))
    }

    /// Decides whether a character outside of code fences is spoken, and moves past it.
    fn is_spoken(&mut self, first: char, second: Option<char>) -> bool {
        let line_start = self.line_start;
        self.line_start = first == '\n' || (line_start && first == ' ');
        let last = self.last.replace(first);
        if self.bare {
            self.bare = !(first.is_whitespace() || matches!(first, ')' | '>' | '"'));
            return !self.bare;
        }
        if self.address {
            self.address = first != ')';
            return false;
        }
        match first {
            '(' if last == Some(']') => {
                self.address = true;
                false
            }
            '*' | '`' | '[' | ']' | '|' | '~' | '<' | '>' => false,
            '#' => !line_start && last != Some('#'),
            '!' => second != Some('['),
            '-' | '+' => !(line_start && second.is_none_or(|next| next == ' ' || next == '-')),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is spoken of a text that comes in pieces of some number of characters.
    fn spoken(text: &str, piece: usize) -> String {
        let mut prose = Prose::default();
        let letters: Vec<char> = text.chars().collect();
        letters.chunks(piece).for_each(|piece| prose.push(&piece.iter().collect::<String>()));
        prose.finish();
        text.char_indices().filter(|(at, _)| prose.spoken[*at]).map(|(_, letter)| letter).collect()
    }

    #[test]
    fn prose_is_spoken_and_code_links_and_markup_are_not() {
        let cases = [
            ("It is three - or 2.5 (I think)!", "It is three - or 2.5 (I think)!"),
            ("# Title\n## Two\n\nC# and #3", " Title\n Two\n\nC# and #3"),
            ("**Bold** and *soft* and `name`", "Bold and soft and name"),
            ("- one\n  * two\n+ three\n1. four", " one\n   two\n three\n1. four"),
            ("See [the book](https://a.b/c_(d)) now", "See the book) now"),
            ("See ![a cat](cat.png)!", "See a cat!"),
            ("At https://example.org/x?y=1 or www.a.b.", "At  or "),
            ("Run:\n```sh\ncargo test\n```\nDone.", "Run:\nDone."),
            ("```\nnever closed", ""),
            ("| a | b |\n|---|---|\n| 1 | 2 |", " a  b \n------\n 1  2 "),
            ("a < b", "a  b"),
            ("-5 degrees\n+7 more\n---\n-- well", "-5 degrees\n+7 more\n--\n- well"),
            ("wwho http", "wwho http"),
        ];
        for (text, expected) in cases {
            for piece in [1, 2, 3, 7, 100] {
                assert_eq!(spoken(text, piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_token_is_spoken_if_any_of_its_text_is() {
        let mut prose = Prose::default();
        prose.push("**a** b");
        assert_eq!(
            [(0, 2), (1, 3), (3, 5)].map(|(start, end)| prose.speaks(start, end)),
            [Some(false), Some(true), Some(false)]
        );
        assert_eq!([0, 2, 3].map(|at| prose.speaks(at, at)), [true, false, true].map(Some), "tokens without text");
        assert_eq!(prose.speaks(6, 9), None);
    }

    proptest! {
        #[test]
        fn pieces_change_nothing_and_everything_is_decided(text in "[a-c `*#h\n\\[\\]()!w.-]{0,60}", piece in 1usize..9) {
            prop_assert_eq!(spoken(&text, piece), spoken(&text, 1000));
        }
    }
}
