//! The place between logits and sampler, open to applications: grammars, bans, measurements.

use std::fmt;
use std::sync::Arc;

use omni_core::Result;

use super::tokenizer::Tokenizer;

/// Sees and changes what the thinker chooses from, token by token, for one answer.
///
/// It is called in the thread of the answer's thinker, also when answers share a step; work there delays that answer alone.
///
/// ```
/// # use qwen3_omni::{GenerateOptions, Result, TokenHook, TokenHooks};
/// struct Never(u32);
/// impl TokenHook for Never {
///     fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
///         logits[self.0 as usize] = f32::NEG_INFINITY;
///         Ok(())
///     }
/// }
/// let options = GenerateOptions::default().hook(TokenHooks::new(|_| Ok(Box::new(Never(13)))));
/// ```
pub trait TokenHook: Send {
    /// Changes the logits `[V]` from which the next token is chosen; minus infinity forbids a token. Called before penalties, bias and
    /// sampling, but not for tokens of a given text.
    ///
    /// # Errors
    /// Any error ends the answer.
    fn mask(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Receives the id that was chosen or given, end tokens included.
    ///
    /// # Errors
    /// Any error ends the answer.
    fn observe(&mut self, id: u32) -> Result<()> {
        let _ = id;
        Ok(())
    }
}

/// Makes the hook of each answer.
///
/// ```
/// use qwen3_omni::{HookContext, Result, TokenHook, TokenHooks};
///
/// // A hook that needs the ids of a word.
/// fn about(word: &'static str, make: fn(Vec<u32>) -> Box<dyn TokenHook>) -> TokenHooks {
///     TokenHooks::new(move |context: &HookContext| Ok(make(context.tokenizer.encode(word)?)))
/// }
/// ```
#[derive(Clone)]
pub struct TokenHooks(Arc<MakeHook>);

type MakeHook = dyn Fn(&HookContext) -> Result<Box<dyn TokenHook>> + Send + Sync;

/// The model that a hook is made for.
#[derive(Debug)]
#[non_exhaustive]
pub struct HookContext<'a> {
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Number of logits.
    pub vocabulary: usize,
    /// Ids that end an answer.
    pub end_ids: &'a [u32],
}

impl TokenHooks {
    /// Takes the function that makes a hook. It is called when the prompt of an answer is prepared; an error refuses the request.
    pub fn new(make: impl Fn(&HookContext) -> Result<Box<dyn TokenHook>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    pub(crate) fn make(&self, context: &HookContext) -> Result<Hook> {
        (self.0)(context).map(Hook)
    }
}

impl fmt::Debug for TokenHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHooks")
    }
}

/// The hook of one answer.
pub(crate) struct Hook(pub(crate) Box<dyn TokenHook>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}
