//! Log-probabilities in OpenAI's form.

use qwen3_omni::{LogProb, Omni, TokenLogProbs};
use serde_json::{Value, json};

fn token(omni: &Omni, token: LogProb) -> Value {
    let bytes = omni.tokenizer().token_bytes(token.id);
    // A token may end within a character.
    json!({"token": String::from_utf8_lossy(&bytes), "logprob": token.log_prob, "bytes": bytes})
}

/// The object `logprobs` of a choice.
pub(super) fn log_probs(omni: &Omni, places: &[TokenLogProbs]) -> Value {
    let content = places.iter().map(|place| {
        let mut chosen = token(omni, place.token);
        chosen["top_logprobs"] = place.best.iter().map(|best| token(omni, *best)).collect();
        chosen
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}
