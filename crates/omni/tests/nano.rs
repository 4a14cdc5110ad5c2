//! The trained nano model answers, in text and in exactly the codes the reference stored, on the device of
//! `OMNI_TEST_DEVICE`.
#![allow(clippy::unwrap_used)]

use qwen3_omni::{Dtype, Error, GenerateOptions, Message, Omni, Reply, SpeechStop, TextStop};
use serde_json::Value;

fn nano() -> Omni {
    let device = testkit::device_name().parse().unwrap();
    Omni::builder(testkit::nano()).device(device).load().unwrap()
}

fn ask(omni: &Omni, question: &str) -> Reply {
    omni.generate(&[Message::user().text(question)], &GenerateOptions::default().greedy()).unwrap()
}

fn text_conversations() -> Vec<(String, Value)> {
    let stored = std::fs::read(testkit::nano().join("../nano-samples/conversations.json")).unwrap();
    let stored: Vec<Value> = serde_json::from_slice(&stored).unwrap();
    let question = |case: &Value| match case["content"].as_array().unwrap().as_slice() {
        [part] if part["type"] == "text" => Some(part["text"].as_str().unwrap().to_owned()),
        _ => None,
    };
    let cases: Vec<_> = stored.into_iter().filter_map(|case| Some((question(&case)?, case))).collect();
    assert!(!cases.is_empty());
    cases
}

#[test]
fn text_conversations_give_the_stored_texts_codes_and_lengths() {
    let omni = nano();
    for (question, stored) in text_conversations() {
        let reply = ask(&omni, &question);
        assert_eq!(reply.text, stored["text"].as_str().unwrap());
        assert_eq!(reply.text_stop, TextStop::End);
        let speech = reply.speech.unwrap();
        assert_eq!(speech.stop, SpeechStop::End);
        let codebooks: Vec<Vec<u32>> = serde_json::from_value(stored["codes"].clone()).unwrap();
        let frames: Vec<Vec<u32>> =
            (0..codebooks[0].len()).map(|f| codebooks.iter().map(|book| book[f]).collect()).collect();
        assert_eq!(speech.codes, frames, "{question}");
        assert_eq!(speech.audio.samples.len() as u64, stored["samples"].as_u64().unwrap());
        let loudness = speech.audio.samples.iter().map(|s| s * s).sum::<f32>() / speech.audio.samples.len() as f32;
        assert!(loudness.sqrt() > 0.01, "{question}: silence");
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
