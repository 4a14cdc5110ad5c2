//! Limits on the resources that a chat template may use.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Rest, Value, ValueOrKwargs, from_args};
use minijinja::{Environment, ErrorKind};

use super::source::tags;

/// Instructions of one rendering.
const STEPS: u64 = 20_000_000;

/// Size of the template's text in bytes.
const MOST_SOURCE: usize = 1 << 20;

/// Size in bytes of the output, and of the result of one filter.
const MOST_OUTPUT: usize = 1 << 26;

/// Number of items in the list that a filter returns.
const MOST_ITEMS: usize = 1 << 20;

/// Blocks inside one another, further branches of an `if` included. The parser takes a stack frame for each.
pub(super) const MOST_NESTED: usize = 100;

/// Operators, calls and brackets of one tag. The parser, or what frees its result, takes a stack frame for each.
pub(super) const MOST_OPERATORS: usize = 500;

/// The error of a template that cannot be used.
pub(super) fn damaged(reason: impl std::fmt::Display) -> omni_core::Error {
    omni_core::Error::config(format!("the chat template is damaged: {reason}"))
}

/// Checks a template before it is parsed.
pub(super) fn check(source: &str) -> omni_core::Result<()> {
    if source.len() > MOST_SOURCE {
        return Err(damaged(format!("it has {} bytes, expected at most {MOST_SOURCE}", source.len())));
    }
    let mut open: Vec<usize> = Vec::new();
    for tag in tags(source) {
        let operators = operators(tag.inner);
        if operators > MOST_OPERATORS {
            return Err(damaged(format!("a tag has {operators} operators, expected at most {MOST_OPERATORS}")));
        }
        let Some(word) = tag.word() else { continue };
        match word {
            "if" | "for" | "macro" | "call" | "filter" | "with" | "autoescape" | "block" | "generation" => open.push(1),
            // A block unless it assigns at once.
            "set" if !tag.inner.contains('=') => open.push(1),
            "elif" | "else" => {
                if let Some(branches) = open.last_mut() {
                    *branches += 1;
                }
            }
            end if end.starts_with("end") => drop(open.pop()),
            _ => {}
        }
        let depth: usize = open.iter().sum();
        if depth > MOST_NESTED {
            return Err(damaged(format!("its blocks are nested more than {MOST_NESTED} deep")));
        }
    }
    Ok(())
}

/// Counts what may nest in an expression: signs outside of strings, and words that are operators.
fn operators(inner: &str) -> usize {
    let mut count = 0;
    let (mut quote, mut escaped, mut word) = (None, false, String::new());
    let end_word = |word: &mut String, count: &mut usize| {
        *count += usize::from(matches!(word.as_str(), "not" | "and" | "or" | "if" | "in" | "is"));
        word.clear();
    };
    for sign in inner.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if sign == '\\' => escaped = true,
            Some(open) if sign == open => quote = None,
            Some(_) => {}
            None if sign.is_alphanumeric() || sign == '_' => word.push(sign),
            None => {
                end_word(&mut word, &mut count);
                match sign {
                    '"' | '\'' => quote = Some(sign),
                    '(' | '[' | '{' | '.' | '|' | '+' | '-' | '*' | '/' | '%' | '~' | '<' | '>' | '=' | '!' => {
                        count += 1
                    }
                    _ => {}
                }
            }
        }
    }
    end_word(&mut word, &mut count);
    count
}

/// The output, up to its bound.
#[derive(Default)]
pub(super) struct Bounded {
    bytes: Vec<u8>,
    /// Whether more came than fits.
    pub(super) full: bool,
}

impl Bounded {
    pub(super) fn into_string(self) -> String {
        String::from_utf8(self.bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MOST_OUTPUT {
            self.full = true;
            return Err(io::Error::other("the output is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Estimates the size in bytes of a filter's result; `None` for arguments that the filter itself rejects.
type Size = fn(&[Value]) -> Option<usize>;

/// Filters and methods whose result can be far larger than their arguments.
const GROWING: [(&str, Size); 16] = [
    ("replace", of_replacement),
    ("indent", of_indentation),
    ("join", of_joined),
    ("format", of_format),
    ("split", of_pieces),
    ("lines", of_pieces),
    ("splitlines", of_pieces),
    ("list", of_items),
    ("sort", of_items),
    ("unique", of_items),
    ("reverse", of_items),
    ("map", of_items),
    ("select", of_items),
    ("reject", of_items),
    ("batch", of_count),
    ("slice", of_count),
];

/// Bytes that an item of a list counts as.
const ITEM_BYTES: usize = MOST_OUTPUT / MOST_ITEMS;

/// An argument by its place or its name.
fn argument(args: &[Value], index: usize, name: &str) -> Option<Value> {
    let (positional, named): (&[Value], Kwargs) = from_args(args).ok()?;
    positional.get(index).cloned().or_else(|| named.get::<Value>(name).ok())
}

fn length(value: &Value) -> usize {
    value.as_str().map_or(ITEM_BYTES, str::len)
}

fn of_replacement(args: &[Value]) -> Option<usize> {
    let [text, old, new] = [args.first()?.as_str()?, args.get(1)?.as_str()?, args.get(2)?.as_str()?];
    let found = if old.is_empty() { text.len() + 1 } else { text.matches(old).count() };
    Some(found.saturating_mul(new.len()).saturating_add(text.len()))
}

fn of_indentation(args: &[Value]) -> Option<usize> {
    let (text, width) = (args.first()?.as_str()?, argument(args, 1, "width")?.as_usize()?);
    Some((text.split('\n').count() + 1).saturating_mul(width).saturating_add(text.len()))
}

fn of_joined(args: &[Value]) -> Option<usize> {
    let (items, between) = (args.first()?, argument(args, 1, "d").as_ref().and_then(Value::as_str).map_or(0, str::len));
    let count = items.len()?;
    let between = count.saturating_mul(between);
    match items.as_str() {
        Some(text) => Some(text.len().saturating_add(between)),
        None if count > MOST_ITEMS => Some(usize::MAX),
        None => Some(items.try_iter().ok()?.map(|item| length(&item)).fold(between, usize::saturating_add)),
    }
}

/// The sum of all numbers in the format and among its arguments, one of which may be a width, and of the arguments' lengths, each of
/// which may stand at every place.
fn of_format(args: &[Value]) -> Option<usize> {
    let format = args.first()?.as_str()?;
    let numbers = format.split(|sign: char| !sign.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX));
    let stars = args[1..].iter().filter_map(Value::as_usize).filter(|_| format.contains('*'));
    let places = format.matches(['%', '{']).count();
    let lengths = args[1..].iter().map(|value| length(value).saturating_mul(places));
    Some(widths.chain(stars).chain(lengths).fold(format.len(), usize::saturating_add))
}

fn of_pieces(args: &[Value]) -> Option<usize> {
    Some(args.first()?.as_str()?.len().saturating_mul(4))
}

fn of_items(args: &[Value]) -> Option<usize> {
    Some(args.first()?.len()?.saturating_mul(ITEM_BYTES))
}

fn of_count(args: &[Value]) -> Option<usize> {
    Some(args.first()?.len()?.saturating_add(args.get(1)?.as_usize()?).saturating_mul(ITEM_BYTES))
}

/// Deepest nesting of a value that is written.
const MOST_DEEP: usize = 100;

/// Refuses a value that is nested too deep, or has become too long, to be written.
pub(super) fn within(depth: usize, length: usize) -> Result<(), minijinja::Error> {
    let refused = |what: &str| {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("a value is {what} to be written")))
    };
    match (depth > MOST_DEEP, length > MOST_OUTPUT) {
        (true, _) => refused("nested too deep"),
        (_, true) => refused("too long"),
        _ => Ok(()),
    }
}

/// Refuses a filter or method whose result would be too long. Arguments of another kind are left to the filter to refuse.
fn bound(name: &str, args: &[Value]) -> Result<(), minijinja::Error> {
    let size = GROWING.iter().find(|(growing, _)| *growing == name).and_then(|(_, size)| size(args));
    match size {
        Some(size) if size > MOST_OUTPUT => {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("what `{name}` makes is too long")))
        }
        _ => Ok(()),
    }
}

/// Wraps the filters and methods of [`GROWING`] so that their results are bounded, and sets the instruction limit.
pub(super) fn set(environment: &mut Environment<'static>) {
    environment.set_fuel(Some(STEPS));
    let original = Environment::new();
    for (name, _) in GROWING {
        let original = original.clone();
        environment.add_filter(name, move |args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            bound(name, &args)?;
            original.empty_state().apply_filter(name, &args)
        });
    }
    environment.set_unknown_method_callback(|state, value, name, args| {
        let all: Vec<Value> = std::iter::once(value.clone()).chain(args.iter().cloned()).collect();
        // Python's `join` is a method of what stands between.
        let swapped = if name == "join" && all.len() > 1 { vec![all[1].clone(), all[0].clone()] } else { all };
        bound(name, &swapped)?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
    });
}
