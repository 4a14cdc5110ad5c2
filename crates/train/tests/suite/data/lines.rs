use qwen3_omni::media::Source;
use qwen3_omni::{AudioInput, GenerateOptions, ImageInput, Message, Part, Role, VideoInput};
use qwen3_omni_train::data::SpeechTarget;
use serde_json::{Value, json};

use super::{parse, refused};

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";

/// Text, or the kind and origin of media.
fn parts(message: &Message) -> Vec<String> {
    let name = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Audio(AudioInput::Encoded(source)) => format!("audio {}", source.origin()),
        Part::Image(ImageInput::Encoded(source)) => format!("image {}", source.origin()),
        Part::Video { video, .. } => format!("video {}", video.origin()),
        other => panic!("{other:?}"),
    };
    message.parts().iter().map(name).collect()
}

fn user(content: Value) -> Value {
    json!({"role": "user", "content": content})
}

fn assistant(content: &str) -> Value {
    json!({"role": "assistant", "content": content})
}

#[test]
fn tags_take_the_entries_of_their_kind_in_order() {
    let line = parse(json!({
        "messages": [
            {"role": "system", "content": "Literally <audio>."},
            user(json!("<image>Before <audio> and<audio>")), assistant("A <video> tag is plain text here."),
            user(json!("<video>")), assistant("Yes."),
        ],
        "images": ["i.png"], "audios": ["a.wav", "/abs/b.wav"], "videos": [["f1.png", "f2.png"]],
    }))
    .unwrap();
    let found: Vec<Vec<String>> = line.messages.iter().map(parts).collect();
    assert_eq!(found[0], ["Literally <audio>."]);
    assert_eq!(found[1], ["image /data/i.png", "Before ", "audio /data/a.wav", " and", "audio /abs/b.wav"]);
    assert_eq!(found[2], ["A <video> tag is plain text here."]);
    assert_eq!(found[3], ["video 2 chosen frames"]);
    assert_eq!(line.learns, [true, true]);
}

#[test]
fn singular_keys_hold_one_entry_or_several() {
    for (key, entries) in [("audio", json!("a.wav")), ("audio", json!(["a.wav"])), ("audios", json!("a.wav"))] {
        let mut line = json!({"messages": [user(json!("<audio>")), assistant("Yes.")]});
        line[key] = entries;
        assert_eq!(parts(&parse(line).unwrap().messages[0]), ["audio /data/a.wav"]);
    }
}

#[test]
fn typed_parts_and_tags_mix_in_a_line() {
    let line = parse(json!({
        "messages": [
            user(json!([
                {"type": "image", "image": "i.png"}, {"type": "text", "text": "A literal <image>"}, {"type": "audio"},
                {"type": "video", "video": ["f.png"], "fps": 1.0}, {"type": "image", "base64": PIXEL},
            ])),
            assistant("One."), user(json!("<audio>")),
            {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
        ],
        "audios": ["a.wav", "file:///b.wav"],
    }))
    .unwrap();
    let expected = [
        "image /data/i.png",
        "A literal <image>",
        "audio /data/a.wav",
        "video 1 chosen frames",
        "image 68 bytes in memory",
    ];
    assert_eq!(parts(&line.messages[0]), expected);
    assert_eq!(parts(&line.messages[2]), ["audio /b.wav"]);
    let Part::Video { video: VideoInput::Images { frames_per_second, .. }, .. } = &line.messages[0].parts()[3] else {
        panic!("frames")
    };
    assert_eq!(*frames_per_second, 1.0);
}

#[test]
fn base64_is_told_from_paths_by_its_head_or_length() {
    let long = PIXEL.trim_end_matches('=').repeat(4);
    for (entry, expected) in [
        (format!("data:image/png;base64,{PIXEL}"), "68 bytes in memory"),
        (long, "273 bytes in memory"),
        ("folder/abcd".into(), "/data/folder/abcd"),
    ] {
        let line = parse(json!({"messages": [user(json!("<image>")), assistant("A.")], "images": [entry]})).unwrap();
        let Part::Image(ImageInput::Encoded(source)) = &line.messages[0].parts()[0] else { panic!("a picture") };
        assert_eq!(source.origin(), expected);
        assert_eq!(matches!(source, Source::Bytes(_)), expected.contains("bytes"));
    }
}

#[test]
fn function_calls_join_one_turn_whose_first_loss_counts() {
    let call = |name: &str, loss: bool| {
        let content = json!({"name": name, "arguments": {"x": 1}}).to_string();
        json!({"role": "tool_call", "content": content, "loss": loss})
    };
    let line = parse(json!({
        "tools": json!([{"name": "add"}]).to_string(),
        "messages": [
            user(json!("Add.")), call("add", false), call("add", true),
            {"role": "tool_response", "content": "2"}, {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "Done.", "loss": null}, user(json!("More.")),
            {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]},
        ],
    }))
    .unwrap();
    let roles: Vec<Role> = line.messages.iter().map(Message::role).collect();
    use Role::{Assistant, Tool, User};
    assert_eq!(roles, [User, Assistant, Tool, Tool, Assistant, User, Assistant]);
    assert_eq!(line.learns, [false, true, true]);
    assert_eq!(line.messages[1].tool_calls().len(), 2);
    assert_eq!(line.messages[6].tool_calls(), [json!({"name": "add", "arguments": "{}"})]);
    assert_eq!(line.tools, [json!({"name": "add"})]);
}

#[test]
fn rejected_answers_speech_and_unknown_keys_are_kept() {
    let line = parse(json!({
        "messages": [user(json!("Hi")), assistant("Hello")], "rejected_response": "Go away", "speech": "s.wav",
        "rejected_codes": "r.safetensors", "speaker": "ethan", "solution": 4, "label": true,
    }))
    .unwrap();
    assert_eq!(line.rejected.as_deref(), Some("Go away"));
    assert_eq!(line.speech, Some(SpeechTarget::Wave("/data/s.wav".into())));
    assert_eq!(line.rejected_speech, Some(SpeechTarget::Codes("/data/r.safetensors".into())));
    assert_eq!(line.speaker.as_deref(), Some("ethan"));
    assert_eq!(Value::Object(line.extra.clone()), json!({"solution": 4, "label": true}));
    assert_eq!((line.prompt().len(), parts(&line.with_answer("No").messages[1])), (1, vec!["No".into()]));

    let rejected = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Leave"}]);
    let line =
        parse(json!({"messages": [user(json!("Hi")), assistant("Hello")], "rejected_messages": rejected})).unwrap();
    assert_eq!(line.rejected.as_deref(), Some("Leave"));
}

#[test]
fn a_transcript_is_a_conversation_of_one_turn() {
    let line = parse(json!({"audio": "a.flac", "text": "so it is", "language": "english", "id": 3})).unwrap();
    assert_eq!(parts(&line.messages[0]), ["audio /data/a.flac", "Transcribe the English audio into text."]);
    assert_eq!((parts(&line.messages[1]), line.learns), (vec!["so it is".into()], vec![true]));
    assert_eq!(Value::Object(line.extra), json!({"id": 3, "task": "transcribe", "language": "english"}));
}

#[test]
fn a_lone_answer_is_text_for_pre_training() {
    assert_eq!(parse(json!({"messages": [assistant("Once.")]})).unwrap().document().as_deref(), Some("Once."));
    assert_eq!(parse(json!({"messages": [user(json!("Hi")), assistant("Once.")]})).unwrap().document(), None);
    assert_eq!(parse(json!({"messages": [user(json!("Hi"))]})).unwrap().document(), None);
    assert_eq!(parse(json!({"messages": [assistant("Once.")], "speech": "s.wav"})).unwrap().document(), None);
}

#[test]
fn every_refusal_names_file_and_line_and_what_was_expected() {
    let talk = |key: &str, value: Value| {
        let mut line = json!({"messages": [user(json!("<audio>")), assistant("A")], "audios": ["a.wav"]});
        line[key] = value;
        line
    };
    let messages = |messages: Value| json!({ "messages": messages });
    let cases = [
        (json!([1]), "expected one JSON object"),
        (json!({"query": "a"}), "expected the key `messages`, or `audio` and `text`"),
        (json!({"audio": "a.wav", "text": "a", "task": "sing"}), "task `sing`, expected transcribe"),
        (messages(json!([])), "expected a list of one message or more"),
        (messages(json!(["a"])), "message 1 is a string, expected an object"),
        (messages(json!([{"content": "a"}])), "message 1 has no `role`"),
        (messages(json!([{"role": "bot", "content": "a"}])), "message 1: role `bot`, expected system, user"),
        (messages(json!([{"role": "user"}])), "message 1: `content` is missing"),
        (messages(json!([{"role": "assistant", "content": 3}])), "message 1: `content` is a number"),
        (messages(json!([{"role": "assistant", "content": "a", "loss": 0}])), "`loss` is a number, expected true or"),
        (messages(json!([user(json!([{"type": "smell"}]))])), "a part of type `smell`, expected text, image"),
        (messages(json!([user(json!([{"type": "text"}]))])), "a text part without a string `text`"),
        (messages(json!([{"role": "tool_call", "content": "{"}])), "a function call that is no JSON"),
        (messages(json!([{"role": "tool_call", "content": {}}])), "a function call without a string `name`"),
        (talk("audios", json!(["a.wav", "b.wav"])), "1 tags `<audio>` in user messages, but 2 entries of `audios`"),
        (talk("audios", json!([])), "1 tags `<audio>` in user messages, but 0 entries"),
        (talk("audios", json!([3])), "audio entry: a number, expected a path or base64"),
        (talk("audios", json!(["https://a.b/c.wav"])), "URL `https://a.b/c.wav`, expected a file"),
        (talk("audios", json!(["data:audio/wav;base64,?"])), "base64 data"),
        (talk("audios", json!([""])), "an empty path"),
        (talk("audio", json!("b.wav")), "both `audios` and `audio`"),
        (talk("videos", json!([[1]])), "0 tags `<video>`"),
        (talk("tools", json!("[")), "`tools`: no JSON"),
        (talk("tools", json!([1])), "`tools`: an item is a number, expected a list of objects"),
        (talk("use_audio_in_video", json!("yes")), "`use_audio_in_video` is a string, expected true or false"),
        (talk("rejected_response", json!(1)), "`rejected_response` is a number, expected a string"),
        (talk("rejected_messages", json!([user(json!("a"))])), "`rejected_messages`, expected a list that ends with"),
        (talk("speech", json!("http://a/b.wav")), "URL `http://a/b.wav`"),
        (talk("rejected_speech", json!("b.wav")), "without `speech` or `codes`"),
        (json!({"messages": [user(json!("a"))], "codes": "c"}), "`speech` or `codes` without an assistant message"),
    ];
    for (line, expected) in cases {
        let message = refused(&line);
        assert!(message.starts_with("/data/talks.jsonl:7: ") && message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn answers_are_given_with_what_the_line_says() {
    let line = |more: Value| {
        let mut line = json!({"messages": [user(json!("Who?")), assistant("I.")], "tools": [{"name": "add"}]});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(line).unwrap()
    };
    let others = GenerateOptions::default().seed(9).tools([json!({"name": "first"})]);
    let options = line(json!({"use_audio_in_video": true})).answer_options(&others);
    assert_eq!((options.seed, options.audio_in_video), (9, true));
    assert_eq!(options.tools, [json!({"name": "first"}), json!({"name": "add"})]);
    assert!(!line(json!({})).answer_options(&others).audio_in_video);
    assert!(line(json!({})).answer_options(&others.audio_in_video(true)).audio_in_video);
}

#[test]
fn the_lines_of_the_documentation_are_understood() {
    let lines = include_str!("../../../README.md").lines().filter(|line| line.starts_with("{\""));
    assert_eq!(lines.map(|line| parse(line).unwrap().messages.len()).collect::<Vec<_>>(), [2, 2, 2]);
}
