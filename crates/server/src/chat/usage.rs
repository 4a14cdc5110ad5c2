//! Counts of an answer.

use qwen3_omni::{Omni, Reply};
use serde_json::{Value, json};

/// Tokens of the text before the answer's own: what the model thought, its marks included.
fn thinking_tokens(omni: &Omni, reply: &Reply) -> usize {
    if reply.thinking.is_none() {
        return 0;
    }
    let close = omni.tokenizer().id("</think>");
    let end = reply.token_ids.iter().rposition(|id| Some(*id) == close);
    end.map_or(reply.token_ids.len(), |end| end + 1)
}

/// The object `usage`; the answers have the prompt in common.
pub(super) fn usage(omni: &Omni, replies: &[Reply]) -> Value {
    let sum = |count: fn(&Reply) -> usize| replies.iter().map(count).sum::<usize>();
    let (text, frames) = (sum(|reply| reply.usage.text_tokens), sum(|reply| reply.usage.frames));
    let prompt = replies.first().map(|reply| reply.usage).unwrap_or_default();
    json!({
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": text + frames,
        "total_tokens": prompt.prompt_tokens + text + frames,
        "prompt_tokens_details": {
            "text_tokens": prompt.prompt.text,
            "audio_tokens": prompt.prompt.audio,
            "image_tokens": prompt.prompt.image + prompt.prompt.video,
            "cached_tokens": prompt.cached_tokens,
        },
        "completion_tokens_details": {
            "text_tokens": text,
            "audio_tokens": frames,
            "reasoning_tokens": replies.iter().map(|reply| thinking_tokens(omni, reply)).sum::<usize>(),
        },
    })
}
