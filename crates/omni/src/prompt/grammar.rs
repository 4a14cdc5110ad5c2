//! Answers that follow a grammar or a JSON schema (feature `grammar`, by `llguidance`).

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use omni_core::{Error, Result};
use serde_json::{Value, json};

use super::hook::{HookContext, TokenHook, TokenHooks};
use super::template::{CALL_CLOSE, CALL_OPEN};
use super::tokenizer::Tokenizer;

/// What the text of an answer must be. Converts to [`TokenHooks`]:
///
/// ```
/// use qwen3_omni::{GenerateOptions, Grammar};
/// use serde_json::json;
///
/// let colour = Grammar::JsonSchema(json!({"type": "object", "properties": {"colour": {"type": "string"}}}));
/// let options = GenerateOptions::default().hook(colour).text_only();
/// # assert!(options.hook.is_some());
/// ```
///
/// An answer that is cut by a limit may be incomplete. Thinking is not part of the grammar: switch it off.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Grammar {
    /// Any JSON object.
    Json,
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// A context-free grammar in the dialect of Lark that `llguidance` documents.
    Lark(String),
}

impl Grammar {
    /// Text that calls at least one of these functions, and exactly one unless `several` calls may follow each other. The functions are
    /// described as for [`crate::GenerateOptions::tools`].
    ///
    /// ```
    /// use qwen3_omni::{GenerateOptions, Grammar};
    /// use serde_json::json;
    ///
    /// let look = json!({"type": "function", "function": {"name": "look", "parameters": {
    ///     "type": "object", "properties": {"deep": {"type": "boolean"}}, "required": ["deep"]}}});
    /// let options = GenerateOptions::default().hook(Grammar::tool_calls(&[look.clone()], false)?).tools([look]);
    /// # Ok::<(), qwen3_omni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Grammar`] without functions, for one without a name, and for schemas of more than 1,000 objects.
    pub fn tool_calls(tools: &[Value], several: bool) -> Result<Self> {
        check_size(tools)?;
        let calls = tools.iter().enumerate().map(|(index, tool)| tool_call(index, tool)).collect::<Result<Vec<_>>>()?;
        if calls.is_empty() {
            return Err(Error::Grammar("a function must be called, but none is described".into()));
        }
        let names: Vec<String> = (0..calls.len()).map(|index| format!("call_{index}")).collect();
        let more = if several { " (\"\\n\" call)*" } else { "" };
        let call = names.join(" | ");
        Ok(Self::Lark(format!("start: call{more}\ncall: {call}\n{}", calls.concat())))
    }
}

/// The rules of a call as the chat template tells the model to write it. A schema stands in a rule of its own, so that references within
/// it are found from its root.
fn tool_call(index: usize, tool: &Value) -> Result<String> {
    let function = tool.get("function").unwrap_or(tool);
    let name = function.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| Error::Grammar(format!("function {} has no name", index + 1)))?;
    let mut schema = function.get("parameters").filter(|schema| schema.is_object()).cloned();
    let schema = schema.get_or_insert_with(|| json!({"type": "object", "additionalProperties": false}));
    // The separators that models were taught.
    schema["x-guidance"] = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    let before = json!(format!("\n{{\"name\": {}, \"arguments\": ", json!(name)));
    Ok(format!(
        "call_{index}: {CALL_OPEN} {before} arguments_{index} \"}}\\n\" {CALL_CLOSE}\narguments_{index}: %json {schema}\n"
    ))
}

impl From<Grammar> for TokenHooks {
    fn from(grammar: Grammar) -> Self {
        TokenHooks::new(move |context| Ok(Box::new(Guided::new(&grammar, context)?)))
    }
}

/// Objects in a schema. The parser recurses through them, and its time grows with their square.
const MOST_OBJECTS: usize = 1000;
/// Characters of a reason: some repeat what the application wrote.
const MOST_REASON: usize = 200;

fn objects(schema: &Value) -> usize {
    match schema {
        Value::Object(members) => 1 + members.values().map(objects).sum::<usize>(),
        Value::Array(list) => list.iter().map(objects).sum(),
        _ => 0,
    }
}

fn check_size<'s>(schemas: impl IntoIterator<Item = &'s Value>) -> Result<()> {
    let count = schemas.into_iter().map(objects).sum::<usize>();
    match count > MOST_OBJECTS {
        true => Err(unusable(format!("{count} objects in its schemas, expected at most {MOST_OBJECTS}"))),
        false => Ok(()),
    }
}

/// Holds an answer to a grammar.
struct Guided {
    matcher: Matcher,
    end_ids: Vec<u32>,
}

impl Guided {
    fn new(grammar: &Grammar, context: &HookContext) -> Result<Self> {
        let Some(end) = context.end_ids.first() else {
            let reason =
                "a grammar needs a token that ends the answer, and the checkpoint's generation_config.json names none";
            return Err(Error::Grammar(reason.into()));
        };
        if let Grammar::JsonSchema(schema) = grammar {
            check_size([schema])?;
        }
        let parser = match grammar {
            Grammar::Json => TopLevelGrammar::from_json_schema(compact(json!({"type": "object"}))),
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(compact(schema.clone())),
            Grammar::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let trie = context.tokenizer.trie(context.vocabulary, *end);
        let made = ParserFactory::new_simple(&trie).and_then(|mut factory| factory.quiet().create_parser(parser));
        let mut matcher = Matcher::new(made);
        match matcher.get_error() {
            Some(error) => Err(unusable(error)),
            None => {
                matcher.grammar_warnings().iter().for_each(|warning| tracing::warn!("grammar: {warning}"));
                Ok(Self { matcher, end_ids: context.end_ids.to_vec() })
            }
        }
    }
}

impl TokenHook for Guided {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(refused)?;
        let ends = self.end_ids.iter().any(|id| allowed.is_allowed(*id));
        for (id, logit) in (0..).zip(logits.iter_mut()) {
            let allowed = if self.end_ids.contains(&id) { ends } else { allowed.is_allowed(id) };
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn observe(&mut self, id: u32) -> Result<()> {
        if self.end_ids.contains(&id) {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(refused)
    }
}

/// Requests JSON without optional whitespace, which a model could generate endlessly, unless the schema sets this itself.
fn compact(mut schema: Value) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.entry("x-guidance").or_insert_with(|| json!({"whitespace_flexible": false}));
    }
    schema
}

impl crate::Omni {
    /// Checks that answers of this model can follow a grammar.
    ///
    /// # Errors
    /// [`Error::Grammar`] that says what of the grammar cannot be used.
    pub fn check_grammar(&self, grammar: &Grammar) -> Result<()> {
        let mut guided = Guided::new(grammar, &self.model().for_prompts().hook_context())?;
        // Some that no text can follow, as a schema that refers to itself alone, are found out at the first token.
        guided.matcher.compute_mask_or_eos().map(drop).map_err(|_| unusable("no text can follow it"))
    }
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Grammar(format!("it cannot be used: {}", reason(error)))
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Grammar(format!("it cannot be followed: {}", reason(error)))
}

/// What an error of the library says, in a line, without the parser's state behind it.
fn reason(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let said = text.split("<state>").next().unwrap_or_default();
    format!("{:.MOST_REASON$}", said.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Tokenizer {
    /// The bytes of all tokens, as the grammar's parser takes them. Made once: it takes a moment for a large vocabulary.
    fn trie(&self, vocabulary: usize, end: u32) -> TokEnv {
        self.grammar.get_or_init(|| std::sync::Arc::new(ApproximateTokEnv::new(self.new_trie(vocabulary, end)))).clone()
    }

    fn new_trie(&self, vocabulary: usize, end: u32) -> TokTrie {
        let added = self.added_tokens();
        let bytes = |id: u32| match added.get(&id) {
            // Added tokens are never part of a text.
            Some(token) => [&[TokTrie::SPECIAL_TOKEN_MARKER], token.as_bytes()].concat(),
            None => self.token_bytes(id),
        };
        let words: Vec<Vec<u8>> = (0..vocabulary as u32).map(bytes).collect();
        TokTrie::from(&TokRxInfo::new(vocabulary as u32, end), &words)
    }
}
