use std::path::Path;
use std::sync::LazyLock;

use burn::tensor::Device;
use proptest::prelude::*;
use qwen3_omni::Tokenizer;
use qwen3_omni_train::Error;
use qwen3_omni_train::data::{LabelIds, ReadSample, SampleOptions, SampleReader, conversation_labels};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::parse;

fn reader(directory: &Path) -> SampleReader {
    SampleReader::open(directory, SampleOptions::default()).unwrap()
}

/// What a sample learns, as text.
fn learned(read: &ReadSample, tokenizer: &Tokenizer) -> String {
    let ids: Vec<u32> = read.labels.iter().flatten().copied().collect();
    assert!(read.labels.iter().zip(&read.ids).all(|(label, id)| label.is_none_or(|label| label == *id)));
    tokenizer.decode(&ids, false)
}

fn turn(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// The conversations of the golden batch.
fn chats() -> [Vec<Value>; 3] {
    let (user, assistant) = (|text| turn("user", text), |text| turn("assistant", text));
    [
        vec![user("Count the waves."), assistant("Seven waves before breakfast.")],
        vec![
            turn("system", "Be brief."),
            user("Hello"),
            assistant("Good morning."),
            user("And the train?"),
            assistant("It leaves at seven thirty."),
        ],
        vec![user("今天天气很好"), assistant("Let's go to the park.")],
    ]
}

#[test]
fn ids_and_labels_are_those_of_the_golden_batch() {
    let bytes = std::fs::read(testkit::training().join("thinker_text.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let columns = file.tensor("in.input_ids").unwrap().shape()[1];
    let rows = |name: &str| -> Vec<Vec<i64>> {
        let (numbers, _) = file.tensor(name).unwrap().data().as_chunks::<8>();
        let numbers: Vec<i64> = numbers.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        numbers.chunks(columns).map(<[i64]>::to_vec).collect()
    };
    let (ids, labels, mask) = (rows("in.input_ids"), rows("in.labels"), rows("in.attention_mask"));
    let reader = reader(&testkit::tiny());
    for (row, chat) in chats().iter().enumerate() {
        let read = reader.read(&parse(json!({ "messages": chat })).unwrap()).unwrap();
        let tokens = mask[row].iter().sum::<i64>() as usize;
        let found: Vec<i64> = read.ids.iter().map(|id| i64::from(*id)).collect();
        assert_eq!(found, ids[row][..tokens], "ids of row {row}");
        let found: Vec<i64> = read.labels.iter().map(|label| label.map_or(-100, i64::from)).collect();
        assert_eq!(found, labels[row][..tokens], "labels of row {row}");
    }
}

#[test]
fn loss_and_last_turn_take_answers_out() {
    let mut messages = chats()[1].clone();
    for (last_turn, loss, expected) in [
        (false, true, "Good morning.<|im_end|>It leaves at seven thirty.<|im_end|>"),
        (false, false, "It leaves at seven thirty.<|im_end|>"),
        (true, true, "It leaves at seven thirty.<|im_end|>"),
    ] {
        let reader = SampleReader::open(testkit::tiny(), SampleOptions::default().last_turn(last_turn)).unwrap();
        messages[2]["loss"] = loss.into();
        let read = reader.read(&parse(json!({ "messages": messages })).unwrap()).unwrap();
        assert_eq!(learned(&read, reader.conversations().tokenizer()), expected);
    }
}

#[test]
fn a_text_for_pre_training_is_learned_whole_and_its_special_tokens_are_text() {
    let reader = reader(&testkit::tiny());
    let text = "\nOnce <|im_end|> upon\n";
    let read = reader.read(&parse(json!({"messages": [turn("assistant", text)]})).unwrap()).unwrap();
    assert_eq!(learned(&read, reader.conversations().tokenizer()), format!("{text}<|im_end|>"));
    assert_eq!(read.learned(), read.ids.len() - 1);
    let end = reader.conversations().config().top.im_end_token_id;
    assert_eq!(read.ids.iter().filter(|id| **id == end).count(), 1);
}

#[test]
fn function_calls_are_learned_and_their_results_are_not() {
    let reader = reader(&testkit::nano());
    let line = json!({"tools": [{"name": "add"}], "messages": [
        turn("user", "Add."), {"role": "tool_call", "content": {"name": "add", "arguments": {"x": 1}}},
        turn("tool_response", "2"), turn("assistant", "Two."),
    ]});
    let found = learned(&reader.read(&parse(line).unwrap()).unwrap(), reader.conversations().tokenizer());
    let call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>";
    assert_eq!(found, format!("{call}Two.<|im_end|>"));
}

#[test]
fn media_become_tensors_and_their_placeholders_are_not_learned() {
    let reader = reader(&testkit::tiny());
    let path = |name: &str| testkit::media().join(name).display().to_string();
    let line = parse(json!({
        "messages": [turn("user", "<audio><image>What is it?"), turn("assistant", "A tone.")],
        "audios": [path("tone.flac")], "images": [path("picture.png")],
    }))
    .unwrap();
    let read = reader.read(&line).unwrap();
    assert_eq!(learned(&read, reader.conversations().tokenizer()), "A tone.<|im_end|>");
    let placeholders = reader.conversations().config().thinker.audio_token_id;
    assert!(read.ids.iter().filter(|id| **id == placeholders).count() > 1);
    let sample = read.to_sample(&Device::flex());
    let [picture] = sample.media.pictures.as_slice() else { panic!("one picture") };
    assert_eq!(picture.patches.dims()[0], picture.grid.iter().product::<usize>());
    assert_eq!(sample.media.sounds[0].dims()[1], 128);
}

#[test]
fn videos_are_heard_if_the_line_says_so() {
    let reader = reader(&testkit::tiny());
    let clip = testkit::media().join("clip.mp4").display().to_string();
    let media = |heard: bool| {
        let messages = [turn("user", "<video>"), turn("assistant", "A clip.")];
        let line = json!({"messages": messages, "videos": [clip], "use_audio_in_video": heard});
        let read = reader.read(&parse(line).unwrap()).unwrap();
        (read.audio_in_video.clone(), read.to_sample(&Device::flex()).media.sounds.len())
    };
    assert_eq!(media(true), (vec![true], 1));
    assert_eq!(media(false), (vec![false], 0));
}

#[test]
fn what_cannot_be_read_names_its_line() {
    let short = SampleReader::open(testkit::tiny(), SampleOptions::default().context(20)).unwrap();
    let error = short.read(&parse(json!({ "messages": chats()[1] })).unwrap()).unwrap_err();
    let too_long = |error: &Error| {
        matches!(error, Error::Conversation { line: 7, source: omni_core::Error::ContextLength { limit: 20, .. }, .. })
    };
    assert!(too_long(&error), "{error:?}");
    let reader = reader(&testkit::tiny());
    for (messages, expected) in [
        (json!([turn("user", "<audio>"), turn("assistant", "A")]), "missing.wav"),
        (json!([turn("user", ""), turn("assistant", "A")]), "message 1 (user) is empty"),
        (
            json!([
                turn("user", "Q"),
                turn("assistant", "<think>\nx\n</think>\n\nA"),
                turn("user", "R"),
                turn("assistant", "B")
            ]),
            "message 2 holds reasoning",
        ),
    ] {
        let mut line = json!({ "messages": messages });
        if expected == "missing.wav" {
            line["audios"] = json!(["missing.wav"]);
        }
        let message = reader.read(&parse(line).unwrap()).unwrap_err().to_string();
        assert!(message.starts_with("/data/talks.jsonl:7: ") && message.contains(expected), "{message}");
    }
}

#[test]
fn reasoning_is_learned_in_front_of_the_last_answer_and_left_out_of_earlier_ones() {
    let reader = reader(&testkit::tiny());
    let thought = "<think>\nIt is.\n</think>\n\nYes.";
    let split = json!({"role": "assistant", "content": "Yes.", "reasoning_content": "It is."});
    for last in [turn("assistant", thought), split] {
        let mut earlier = turn("assistant", "<think>\nWhy?\n</think>\n\nWell.");
        earlier["loss"] = json!(false);
        let line = json!({ "messages": [turn("user", "Q"), earlier, turn("user", "R"), last] });
        let read = reader.read(&parse(line).unwrap()).unwrap();
        let tokenizer = reader.conversations().tokenizer();
        assert_eq!(learned(&read, tokenizer), format!("{thought}<|im_end|>"));
        // As the model writes it behind the opening of its answer.
        let whole =
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nWell.<|im_end|>\n<|im_start|>user\nR<|im_end|>\n";
        let whole = format!("{whole}<|im_start|>assistant\n{thought}<|im_end|>\n");
        assert_eq!(read.ids, tokenizer.encode(&whole).unwrap());
    }
}

#[test]
fn what_is_spoken_holds_no_reasoning() {
    let reader = SampleReader::open(testkit::tiny(), SampleOptions::default().without_reasoning(true)).unwrap();
    let line = json!({ "messages": [turn("user", "Q"), turn("assistant", "<think>\nIt is.\n</think>\n\nYes.")] });
    let read = reader.read(&parse(line).unwrap()).unwrap();
    assert_eq!(learned(&read, reader.conversations().tokenizer()), "Yes.<|im_end|>");
}

#[test]
fn a_rejected_answer_takes_the_place_of_the_last_one() {
    let reader = reader(&testkit::tiny());
    let line = parse(json!({ "messages": chats()[1], "rejected_response": "No." })).unwrap();
    let read = reader.read_rejected(&line).unwrap().unwrap();
    let found = learned(&read, reader.conversations().tokenizer());
    assert_eq!(found, "Good morning.<|im_end|>No.<|im_end|>");
}

const QUESTION: &str = "[a-z<|>_ 好\n]{0,12}";
/// Answers that spell out special tokens.
const ANSWER: &str = "[a-z]([a-z ,.好\n]|<\\|im_end\\|>|<\\|im_start\\|>assistant\n){0,6}";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn exactly_the_answers_and_their_ends_are_learned(
        turns in prop::collection::vec((QUESTION, ANSWER, any::<bool>()), 1..4)
    ) {
        static READER: LazyLock<SampleReader> = LazyLock::new(|| reader(&testkit::tiny()));
        let messages: Vec<Value> = turns.iter().flat_map(|(question, answer, loss)| {
            [turn("user", &format!("Q{question}")), json!({"role": "assistant", "content": answer, "loss": loss})]
        }).collect();
        let read = READER.read(&parse(json!({ "messages": messages })).unwrap()).unwrap();
        let of_turn = |(_, answer, loss): &(String, String, bool)| loss.then(|| format!("{answer}<|im_end|>"));
        let expected: String = turns.iter().filter_map(of_turn).collect();
        prop_assert_eq!(learned(&read, READER.conversations().tokenizer()), expected);
    }

    #[test]
    fn no_label_lies_outside_an_answer(ids in prop::collection::vec(1_u32..7, 0..40)) {
        let names = LabelIds { im_start: 1, assistant: 2, im_end: 3, placeholders: [4, 4, 4] };
        let labels = (0..40).find_map(|answers| conversation_labels(&ids, &names, &vec![true; answers]).ok()).unwrap();
        let inside = |at: usize| (0..at.saturating_sub(2)).any(|start| {
            ids[start..start + 2] == [1, 2] && !ids[start + 3..at].contains(&3)
        });
        for (at, label) in labels.iter().enumerate() {
            prop_assert!(label.is_none() || inside(at) && ids[at] != 4 && *label == Some(ids[at]));
        }
    }
}

#[test]
fn a_recording_is_read_as_the_text_decoder_of_the_audio_encoder_reads_it() {
    let bytes = std::fs::read(testkit::training().join("aut_asr.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let columns = file.tensor("in.labels").unwrap().shape()[1];
    let rows = |name: &str| -> Vec<Vec<i64>> {
        let (numbers, _) = file.tensor(name).unwrap().data().as_chunks::<8>();
        let numbers: Vec<i64> = numbers.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        numbers.chunks(columns).map(<[i64]>::to_vec).collect()
    };
    let reader = SampleReader::open(testkit::tiny(), SampleOptions::default().recognition(true)).unwrap();
    let tokenizer = Tokenizer::from_directory(&testkit::tiny()).unwrap();
    let sound = testkit::media().join("tone.flac");
    for (ids, labels) in rows("in.decoder_ids").into_iter().zip(rows("in.labels")) {
        let text: Vec<u32> = labels.iter().filter(|label| **label >= 0).map(|label| *label as u32).collect();
        let end = labels.iter().rposition(|label| *label >= 0).unwrap() + 1;
        let text = tokenizer.decode(&text[..text.len() - 1], false);
        let line = json!({"audio": sound, "text": text, "language": "english"});
        let read = reader.read(&parse(line).unwrap()).unwrap();
        let [qwen3_omni::ReadMedia::Sound(mel)] = &read.media[..] else { panic!("one sound") };
        let rows = read.ids.len() - end;
        // 13 rows for each second, and a row for each 8 frames begun behind it.
        let rest = (0..3).fold(mel.frames() % 100, |frames, _| frames.div_ceil(2));
        assert_eq!(rows, mel.frames() / 100 * 13 + rest);
        assert!(
            read.ids[..rows].iter().all(|id| *id == read.ids[0]) && read.labels[..rows].iter().all(Option::is_none)
        );
        let found: Vec<i64> = read.ids[rows..].iter().map(|id| i64::from(*id)).collect();
        assert_eq!(found, ids[..end], "{text}");
        let found: Vec<i64> = read.labels[rows..].iter().map(|label| label.map_or(-100, i64::from)).collect();
        assert_eq!(found, labels[..end], "{text}");
    }
}
