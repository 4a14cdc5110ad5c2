//! The trained nano model answers, in text and in exactly the codes the reference stored, on the device of
//! `OMNI_TEST_DEVICE`.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use qwen3_omni::media::audio::SAMPLE_RATE;
use qwen3_omni::{
    AudioInput, ChunkRamp, Dtype, Error, FinishReason, GenerateOptions, Message, Omni, Reply, SpeechFinish, Stages,
    media,
};
use serde_json::Value;

fn nano() -> Omni {
    let device = testkit::device_name().parse().unwrap();
    Omni::builder(testkit::nano()).device(device).load().unwrap()
}

fn ask(omni: &Omni, question: &str) -> Reply {
    omni.generate(&[Message::user().text(question)], &GenerateOptions::default().greedy()).unwrap()
}

fn samples() -> PathBuf {
    testkit::nano().join("../nano-samples")
}

/// Every stored conversation: typed, spoken and pictured questions, from the WAV and PNG files beside it.
fn conversations() -> Vec<(Message, Value)> {
    let stored = std::fs::read(samples().join("conversations.json")).unwrap();
    let stored: Vec<Value> = serde_json::from_slice(&stored).unwrap();
    let question = |case: &Value| {
        case["content"].as_array().unwrap().iter().fold(Message::user(), |message, part| {
            let file = |key: &str| samples().join(part[key].as_str().unwrap());
            match part["type"].as_str().unwrap() {
                "text" => message.text(part["text"].as_str().unwrap()),
                "audio" => message.audio(file("audio")),
                "image" => message.image(file("image")),
                other => panic!("unknown part {other}"),
            }
        })
    };
    stored.into_iter().map(|case| (question(&case), case)).collect()
}

#[test]
fn typed_spoken_and_pictured_questions_give_the_stored_texts_codes_and_lengths() {
    let omni = nano();
    let conversations = conversations();
    assert_eq!(conversations.len(), 10);
    for (question, stored) in conversations {
        let name = stored["name"].as_str().unwrap();
        let reply = omni.generate(&[question], &GenerateOptions::default().greedy()).unwrap();
        assert_eq!(reply.text, stored["text"].as_str().unwrap(), "{name}");
        assert_eq!(reply.finish_reason, FinishReason::End);
        let speech = reply.speech.unwrap();
        assert_eq!(speech.finish_reason, SpeechFinish::End);
        let codebooks: Vec<Vec<u32>> = serde_json::from_value(stored["codes"].clone()).unwrap();
        let frames: Vec<Vec<u32>> =
            (0..codebooks[0].len()).map(|f| codebooks.iter().map(|book| book[f]).collect()).collect();
        assert_eq!(speech.codes, frames, "{name}");
        assert_eq!(speech.audio.samples.len() as u64, stored["samples"].as_u64().unwrap());
        let loudness = speech.audio.samples.iter().map(|s| s * s).sum::<f32>() / speech.audio.samples.len() as f32;
        assert!(loudness.sqrt() > 0.01, "{name}: silence");
    }
}

#[test]
fn other_sums_and_repeats_are_right_too() {
    let omni = nano();
    for (question, answer) in [
        ("what is two plus three", "two plus three is five"),
        ("what is nine plus nine", "nine plus nine is eighteen"),
        ("what is eight minus six", "eight minus six is two"),
        ("repeat blue", "blue"),
        ("repeat dog seven green", "dog seven green"),
    ] {
        let reply = ask(&omni, question);
        assert_eq!(reply.text, answer);
        // Every word is spoken: about six frames each.
        let words = answer.split(' ').count();
        let frames = reply.speech.unwrap().codes.len();
        assert!((3 * words..=9 * words).contains(&frames), "{answer}: {frames} frames");
    }
}

#[test]
fn a_question_is_understood_with_silence_around_it() {
    let omni = nano();
    let spoken = AudioInput::from(samples().join("spoken_sum_question.wav"));
    let spoken = media::audio::read(&spoken).unwrap();
    for (before, after) in [(0.0, 0.7), (0.4, 0.4), (0.8, 0.0)] {
        let [before, after] = [before, after].map(|seconds| vec![0.0; (seconds * SAMPLE_RATE as f32) as usize]);
        let sound = AudioInput::samples([&before[..], &spoken, &after].concat(), SAMPLE_RATE, 1);
        let reply = omni.generate(&[Message::user().audio(sound)], &GenerateOptions::default().greedy().text_only());
        assert_eq!(reply.unwrap().text, "five plus seven is twelve");
    }
}

#[test]
fn later_turns_are_about_earlier_ones() {
    let mut session = nano().session();
    for (question, answer) in [
        ("repeat red cat", "red cat"),
        ("what is two plus three", "two plus three is five"),
        ("plus one", "five plus one is six"),
        ("repeat that", "five plus one is six"),
        ("repeat red cat", "red cat"),
    ] {
        session.push(Message::user().text(question));
        assert_eq!(session.reply(&GenerateOptions::default().greedy()).unwrap().text, answer, "{question}");
    }
}

#[test]
fn a_stream_is_the_whole_answer_in_pieces_with_and_without_media() {
    // Pieces of other sizes are rounded otherwise in bf16.
    let device = testkit::device_name().parse().unwrap();
    let omni = Omni::builder(testkit::nano()).device(device).dtype(Dtype::F32).load().unwrap();
    let picture = Message::user().image(samples().join("picture_where.png")).text("where is the blue square");
    for question in [Message::user().text("repeat cat"), picture] {
        let sequential = GenerateOptions::default().stages(Stages::Sequential).chunks(ChunkRamp::fixed(1000));
        let whole = omni.generate(std::slice::from_ref(&question), &sequential.greedy()).unwrap().speech.unwrap();
        for chunks in [ChunkRamp::default(), ChunkRamp::fixed(1), ChunkRamp::default().first(3).most(4)] {
            let options = GenerateOptions::default().chunks(chunks).greedy();
            let speech = omni.generate(std::slice::from_ref(&question), &options).unwrap().speech.unwrap();
            assert_eq!(speech.codes, whole.codes, "{chunks:?}");
            let (samples, expected) = (speech.audio.samples, &whole.audio.samples);
            assert_eq!(samples.len(), expected.len());
            let error = samples.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(error < 1e-4, "{chunks:?}: {error}");
        }
    }
}

#[test]
fn a_session_answers_as_a_fresh_run_of_the_conversation() {
    let omni = nano();
    let mut session = omni.session();
    let picture = Message::user().image(samples().join("picture_where.png")).text("where is the blue square");
    for (turn, question) in [picture, Message::user().text("repeat cat")].into_iter().enumerate() {
        session.push(question);
        let fresh = omni.generate(&session.messages(), &GenerateOptions::default().greedy()).unwrap();
        let reply = session.reply(&GenerateOptions::default().greedy()).unwrap();
        assert_eq!((&reply.text, reply.usage.cached_tokens > 0), (&fresh.text, turn > 0));
        assert_eq!(reply.speech.unwrap().codes, fresh.speech.unwrap().codes);
    }
}

#[test]
fn a_number_type_the_device_lacks_is_refused_before_any_weight_is_read() {
    let device: qwen3_omni::Device = testkit::device_name().parse().unwrap();
    let opened = device.open().unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let offered = opened.supports_dtype(burn::tensor::DType::from(dtype));
        match Omni::builder(testkit::nano()).device(device.clone()).dtype(dtype).text_only().load() {
            Ok(_) => assert!(offered, "{dtype}"),
            Err(error) => {
                let message = error.to_string();
                assert!(!offered && matches!(error, Error::Device(_)), "{message}");
                assert!(message.contains(dtype.name()) && message.contains("it offers f32"), "{message}");
            }
        }
    }
    // Shaders in WGSL know no bfloat16.
    assert_eq!(opened.supports_dtype(burn::tensor::DType::BF16), device != qwen3_omni::Device::Wgpu);
}
