//! Bytes that a session holds for its client, about: what it may make the server keep is bounded by them.

use qwen3_omni::media::Source;
use qwen3_omni::media::audio::AudioInput;
use qwen3_omni::{ImageInput, Message, Part, Reply};
use serde_json::Value;

use super::item::{Content, Item, SpokenAnswer};

/// Bytes of a value in memory, which are many more than those of its text where it holds numbers.
pub(super) fn of_value(value: &Value) -> usize {
    let within = match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(of_value).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| size_of::<String>() + name.len() + of_value(value)).sum()
        }
        _ => 0,
    };
    size_of::<Value>() + within
}

/// Bytes of an item.
pub(super) fn of_item(item: &Item) -> usize {
    let content = match &item.content {
        Content::Said { message, parts } => of_message(message) + parts.iter().map(of_value).sum::<usize>(),
        Content::Answer(answer) => of_answer(answer),
        Content::Call { call_id, name, arguments } => call_id.len() + name.len() + of_value(arguments),
        Content::CallOutput { call_id, output } => call_id.len() + output.len(),
    };
    size_of::<Item>() + item.id.len() + content
}

fn of_message(message: &Message) -> usize {
    let source = |source: &Source| match source {
        Source::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    let part = |part: &Part| match part {
        Part::Text(text) => text.len(),
        Part::Audio(AudioInput::Frames(mel)) => size_of_val(mel.values()),
        Part::Image(ImageInput::Encoded(picture)) => source(picture),
        _ => 0,
    };
    message.parts().iter().map(part).sum()
}

fn of_answer(answer: &SpokenAnswer) -> usize {
    answer.text.len() + answer.reply.as_deref().map_or(0, of_reply)
}

fn of_reply(reply: &Reply) -> usize {
    let codes = |frame: &Vec<u32>| size_of_val(frame) + size_of_val(&frame[..]);
    let speech = reply.speech.as_ref().map_or(0, |speech| {
        let frames: usize = speech.codes.iter().map(codes).sum();
        frames + size_of_val(&speech.words[..]) + size_of_val(&speech.text_ends[..])
    });
    reply.text.len() + size_of_val(&reply.token_ids[..]) + speech
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_of_an_item_weighs() {
        let long = || "a".repeat(1000);
        let content = [
            Content::Said { message: Message::user().text(long()), parts: vec![json!({"text": long()})] },
            Content::Answer(SpokenAnswer { text: long(), ..SpokenAnswer::default() }),
            Content::Call { call_id: long(), name: long(), arguments: json!({ long(): long() }) },
            Content::CallOutput { call_id: long(), output: long() },
        ];
        for (content, texts) in content.into_iter().zip([3, 2, 5, 3]) {
            let item = Item { id: long(), status: "", content };
            assert!((texts * 1000..texts * 1000 + 500).contains(&of_item(&item)), "{texts}: {}", of_item(&item));
        }
        assert!(of_value(&json!(vec![0; 1000])) >= 16_000);
    }
}
