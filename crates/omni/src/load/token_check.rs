//! Checks that the config's token ids, the tokenizer and the embedding table belong together.

use omni_core::{Error, Result};

use crate::config::OmniConfig;
use crate::prompt::Tokenizer;

/// Checks that each id that the config names is the one id of its text, and that every id has a row in the embedding table.
///
/// # Errors
/// [`Error::Config`] naming the key, its id, and what the tokenizer makes of the text.
pub(super) fn check(config: &OmniConfig, tokenizer: &Tokenizer) -> Result<()> {
    let (turns, thinker) = (&config.turns, &config.thinker);
    let named = [
        ("im_start_token_id", Some(turns.im_start), "<|im_start|>"),
        ("im_end_token_id", Some(config.top.im_end_token_id), "<|im_end|>"),
        ("user_token_id", Some(turns.user), "user"),
        ("assistant_token_id", Some(turns.assistant), "assistant"),
        ("tts_pad_token_id", Some(turns.tts_pad), "<tts_pad>"),
        ("tts_bos_token_id", Some(turns.tts_bos), "<tts_text_bos>"),
        ("tts_eos_token_id", Some(turns.tts_eos), "<tts_text_eod>"),
        ("audio_start_token_id", Some(thinker.audio_start_token_id), "<|audio_start|>"),
        ("audio_end_token_id", thinker.audio_end_token_id, "<|audio_end|>"),
        ("vision_start_token_id", Some(thinker.vision_start_token_id), "<|vision_start|>"),
        ("audio_token_id", Some(thinker.audio_token_id), "<|audio_pad|>"),
        ("image_token_id", Some(thinker.image_token_id), "<|image_pad|>"),
        ("video_token_id", Some(thinker.video_token_id), "<|video_pad|>"),
    ];
    let rows = thinker.text.vocab_size;
    for (key, id, text) in named.into_iter().filter_map(|(key, id, text)| Some((key, id?, text))) {
        has_row(key, id, rows)?;
        let found = tokenizer.encode(text)?;
        if found != [id] {
            let reason = format!("{key} is {id}, but the tokenizer makes {found:?} of its text `{text}`");
            return Err(Error::config(reason));
        }
    }
    has_row("largest id of the tokenizer", tokenizer.size().saturating_sub(1), rows)
}

fn has_row(name: &str, id: u32, rows: usize) -> Result<()> {
    if (id as usize) < rows {
        return Ok(());
    }
    Err(Error::config(format!("{name} is {id}, but the vocabulary has only {rows} rows")))
}
