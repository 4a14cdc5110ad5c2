//! The parts of a conversation that are not text, in order of appearance.

use super::message::{Message, Part, PartKind};

/// A part that is not text, with its position in the conversation.
pub(super) struct MediaPart<'a> {
    pub(super) message: usize,
    pub(super) index: usize,
    pub(super) part: &'a Part,
}

impl MediaPart<'_> {
    pub(super) fn name(&self) -> String {
        format!("message {}, part {}", self.message, self.index)
    }
}

/// Lists the parts that are not text, in order.
pub(super) fn media_parts(messages: &[Message]) -> Vec<MediaPart<'_>> {
    let of_message = |(message, parts): (usize, &'_ [Part])| -> Vec<(usize, usize)> {
        let media = parts.iter().enumerate().filter(|(_, item)| item.kind() != PartKind::Text);
        media.map(|(part, _)| (message, part)).collect()
    };
    let all = messages.iter().map(Message::parts).enumerate().flat_map(of_message);
    all.map(|(message, part)| MediaPart {
        message: message + 1,
        index: part + 1,
        part: &messages[message].parts()[part],
    })
    .collect()
}
