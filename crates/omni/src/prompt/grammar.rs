//! Answers that follow a grammar or a JSON schema (feature `grammar`, by `llguidance`).

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use omni_core::{Error, Result};
use serde_json::{Value, json};

use super::hook::{HookContext, TokenHook, TokenHooks};
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

impl From<Grammar> for TokenHooks {
    fn from(grammar: Grammar) -> Self {
        TokenHooks::new(move |context| Ok(Box::new(Guided::new(&grammar, context)?)))
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
            return Err(Error::Request(reason.into()));
        };
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
            Some(error) => Err(Error::Request(format!("the grammar cannot be used: {error}"))),
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

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Request(format!("the grammar cannot be followed: {error}"))
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
