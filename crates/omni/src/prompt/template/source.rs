//! Where a template's text comes from, and its tags.

use std::path::{Path, PathBuf};

use checkpoint::read_json;
use omni_core::{Error, Result};
use serde_json::Value as Json;

/// The template's key in [`SETTINGS`], and its name in the engine.
pub(super) const NAME: &str = "chat_template";
/// The file of the tokenizer's settings.
pub(super) const SETTINGS: &str = "tokenizer_config.json";
/// Largest file that is read as a template.
const MOST_BYTES: u64 = 1 << 24;

/// Finds the template's text, with the file it stands in.
pub(super) fn find(directory: &Path, settings: &Json) -> Result<(PathBuf, String)> {
    let jinja = directory.join("chat_template.jinja");
    if jinja.is_file() {
        return read_text(&jinja).map(|text| (jinja, text));
    }
    let own = directory.join("chat_template.json");
    let json: Json = if own.exists() { read_json(&own)? } else { Json::Null };
    for (path, json) in [(own, &json), (directory.join(SETTINGS), settings)] {
        if let Some(text) = default_of(&json[NAME]) {
            return Ok((path, text.to_owned()));
        }
    }
    let expected =
        "expected chat_template.jinja, chat_template.json or the key `chat_template` of tokenizer_config.json";
    Err(Error::config(format!("{}: there is no chat template: {expected}", directory.display())))
}

fn read_text(path: &Path) -> Result<String> {
    let io = |source| Error::io(path, source);
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MOST_BYTES {
        return Err(Error::config(format!("{}: {length} bytes are no chat template", path.display())));
    }
    std::fs::read_to_string(path).map_err(io)
}

/// The text itself, or the one named `default` of a list of named texts.
fn default_of(template: &Json) -> Option<&str> {
    let named = |entry: &&Json| entry["name"] == "default";
    let text = template.as_array().map_or(Some(template), |all| all.iter().find(named).map(|entry| &entry["template"]));
    text?.as_str()
}

/// The special tokens that `tokenizer_config.json` names, each a string or an object with `content`.
pub(super) fn special_tokens(settings: &Json) -> Vec<(String, String)> {
    let entries = settings.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    let text = |token: &Json| token.as_str().or(token["content"].as_str()).map(str::to_owned);
    entries.filter_map(|(key, token)| Some((key.clone(), text(token)?))).collect()
}

/// A tag of a template: `{% … %}` or `{{ … }}`.
pub(super) struct Tag<'a> {
    /// What stands between the signs.
    pub(super) inner: &'a str,
    is_block: bool,
    /// Where `inner` begins in the template.
    start: usize,
}

impl<'a> Tag<'a> {
    /// The first word of a block tag.
    pub(super) fn word(&self) -> Option<&'a str> {
        let text = self.inner.trim_start_matches(['-', '+']).trim_start();
        let end = text.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(text.len());
        Some(&text[..end]).filter(|word| self.is_block && !word.is_empty())
    }
}

/// The tags of a template; comments have none.
pub(super) fn tags(source: &str) -> Vec<Tag<'_>> {
    let (mut tags, mut at) = (Vec::new(), 0);
    while let Some(found) = source[at..].find('{') {
        let open = at + found;
        let (is_block, close) = match source.as_bytes().get(open + 1) {
            Some(b'%') => (true, "%}"),
            Some(b'{') => (false, "}}"),
            Some(b'#') => {
                at = source[open + 2..].find("#}").map_or(source.len(), |end| open + 2 + end + 2);
                continue;
            }
            _ => {
                at = open + 1;
                continue;
            }
        };
        let start = open + 2;
        let end = end_of_tag(&source[start..], close).map_or(source.len(), |length| start + length);
        let tag = Tag { inner: &source[start..end], is_block, start };
        at = (end + 2).min(source.len());
        if tag.word() == Some("raw") {
            at = end_of_raw(source, at);
        }
        tags.push(tag);
    }
    tags
}

/// Where the tag begins that ends a raw block: nothing before it is one.
fn end_of_raw(source: &str, mut at: usize) -> usize {
    while let Some(found) = source[at..].find("{%") {
        let open = at + found;
        let rest = source[open + 2..].trim_start_matches(['-', '+']).trim_start();
        let rest = rest.strip_prefix("endraw").map(|rest| rest.trim_start().trim_start_matches(['-', '+']));
        if rest.is_some_and(|rest| rest.starts_with("%}")) {
            return open;
        }
        at = open + 2;
    }
    source.len()
}

/// Where a tag ends: at the first closing sign outside of strings and brackets.
fn end_of_tag(text: &str, close: &str) -> Option<usize> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0isize);
    for (at, sign) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if sign == '\\' => escaped = true,
            Some(open) if sign == open => quote = None,
            Some(_) => {}
            None if depth == 0 && text[at..].starts_with(close) => return Some(at),
            None => match sign {
                '"' | '\'' => quote = Some(sign),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            },
        }
    }
    None
}

/// Replaces the tags that mark what the assistant wrote, which only training reads, by ones that do nothing.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut done = 0;
    for tag in tags(source) {
        let (word, instead) = match tag.word() {
            Some(word @ "generation") => (word, "if true"),
            Some(word @ "endgeneration") => (word, "endif"),
            _ => continue,
        };
        let at = tag.start + tag.inner.find(word).unwrap_or(0);
        text.push_str(&source[done..at]);
        text.push_str(instead);
        done = at + word.len();
    }
    text.push_str(&source[done..]);
    text
}
