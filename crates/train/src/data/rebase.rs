//! Paths of a line that is written to another folder than it was read from.

use std::path::Path;

use serde_json::{Map, Value};

use super::entries::is_embedded;

/// Keys of media, of a line and of typed parts.
const MEDIA: [&str; 6] = ["image", "images", "audio", "audios", "video", "videos"];
/// Keys of a typed part that may name a file too.
const OF_PART: [&str; 2] = ["path", "url"];
/// Keys of conversations, whose parts may name media.
const CONVERSATIONS: [&str; 2] = ["messages", "rejected_messages"];
/// Keys of other files.
const FILES: [&str; 4] = ["speech", "codes", "rejected_speech", "rejected_codes"];

/// Lets the relative paths of a line begin at `folder`, the one of the file that it was read from.
pub(super) fn rebase(line: &mut Map<String, Value>, folder: &Path) {
    for (key, value) in line {
        let key = key.as_str();
        if MEDIA.contains(&key) || FILES.contains(&key) {
            rebase_paths(value, folder);
        } else if CONVERSATIONS.contains(&key) {
            rebase_parts(value, folder);
        }
    }
}

/// The parts of messages.
fn rebase_parts(messages: &mut Value, folder: &Path) {
    let parts = messages.as_array_mut().into_iter().flatten().filter_map(|message| message.get_mut("content"));
    let parts = parts.filter_map(Value::as_array_mut).flatten().filter_map(Value::as_object_mut);
    for (key, value) in parts.flatten() {
        if MEDIA.contains(&key.as_str()) || OF_PART.contains(&key.as_str()) {
            rebase_paths(value, folder);
        }
    }
}

/// A path, a list of them, or a list of the frames of videos.
fn rebase_paths(value: &mut Value, folder: &Path) {
    match value {
        Value::String(text) if !is_embedded(text) && !text.contains("://") => {
            *text = folder.join(&*text).to_string_lossy().into_owned();
        }
        Value::Array(entries) => entries.iter_mut().for_each(|entry| rebase_paths(entry, folder)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_relative_paths_change() {
        let embedded = "QUJD".repeat(60);
        let mut line = json!({
            "messages": [{"role": "user", "content": [
                {"type": "image", "image": "i.png"}, {"type": "text", "text": "t.txt"}, {"type": "audio", "path": "a.wav"},
            ]}, {"role": "assistant", "content": "plain.txt"}],
            "videos": [["f1.png", "/abs/f2.png"]], "audio": "data:audio/wav;base64,AAAA", "images": embedded,
            "codes": "c.safetensors", "solution": {"image": "i.png"}, "speaker": "vera",
        });
        let expected = json!({
            "messages": [{"role": "user", "content": [
                {"type": "image", "image": "/data/i.png"}, {"type": "text", "text": "t.txt"},
                {"type": "audio", "path": "/data/a.wav"},
            ]}, {"role": "assistant", "content": "plain.txt"}],
            "videos": [["/data/f1.png", "/abs/f2.png"]], "audio": "data:audio/wav;base64,AAAA", "images": embedded,
            "codes": "/data/c.safetensors", "solution": {"image": "i.png"}, "speaker": "vera",
        });
        rebase(line.as_object_mut().unwrap(), Path::new("/data"));
        assert_eq!(line, expected);
    }
}
