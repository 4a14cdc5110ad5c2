//! The trained nano model still answers when its weights are packed, on the device of `OMNI_TEST_DEVICE`.

use std::path::PathBuf;

use qwen3_omni::{Dtype, GenerateOptions, Message, Omni};
use serde_json::Value;
use weights_tools::quantize::{Grouping, Options, Plan, Recipe, quantize};

fn samples() -> PathBuf {
    testkit::nano().join("../nano-samples")
}

/// Every stored question with its text.
fn conversations() -> Vec<(Message, String)> {
    let stored = std::fs::read(samples().join("conversations.json")).unwrap();
    let stored: Vec<Value> = serde_json::from_slice(&stored).unwrap();
    let part = |message: Message, part: &Value| {
        let value = |key: &str| part[key].as_str();
        match (value("text"), value("audio"), value("image")) {
            (Some(text), ..) => message.text(text),
            (_, Some(file), _) => message.audio(samples().join(file)),
            (.., Some(file)) => message.image(samples().join(file)),
            _ => panic!("unknown part {part}"),
        }
    };
    let question = |case: &Value| case["content"].as_array().unwrap().iter().fold(Message::user(), part);
    stored.iter().map(|case| (question(case), case["text"].as_str().unwrap().to_owned())).collect()
}

/// Answers that are not the stored ones, of a nano model quantised by this plan.
fn mistakes(plan: Plan) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let (source, out, shard_bytes) = (testkit::nano(), directory.path().to_owned(), 100_000_000);
    let options = Options { source, out, plan, dtype: Dtype::Bf16, shard_bytes, restart: false };
    quantize(&options, |_| Ok(())).unwrap();
    let device = testkit::device_name().parse().unwrap();
    let omni = Omni::builder(directory.path()).device(device).load().unwrap();
    let answer = |(question, text): (Message, String)| {
        let reply = omni.generate(&[question], &GenerateOptions::default().greedy()).unwrap();
        let frames = reply.speech.map_or(0, |speech| speech.codes.len());
        let words = text.split(' ').count();
        // Every word is spoken: about six frames each.
        let spoken = (3 * words..=10 * words).contains(&frames);
        (reply.text != text || !spoken).then(|| format!("{text}: {} ({frames} frames)", reply.text))
    };
    conversations().into_iter().filter_map(answer).collect()
}

#[test]
fn eight_bits_answer_as_the_original() {
    for group in [32, 128] {
        let plan = Plan { bits: Some(8), group: Some(Grouping::Group(group)), ..Plan::default() };
        assert_eq!(mistakes(plan), [""; 0], "groups of {group}");
    }
}

#[test]
fn every_recipe_and_four_bits_answer_as_the_original() {
    for recipe in [Recipe::Gb24, Recipe::Gb48, Recipe::Gb80] {
        assert_eq!(mistakes(Plan { recipe: Some(recipe), ..Plan::default() }), [""; 0], "{recipe}");
    }
    for asymmetric in [false, true] {
        assert_eq!(
            mistakes(Plan { bits: Some(4), asymmetric, ..Plan::default() }),
            [""; 0],
            "with zero points: {asymmetric}"
        );
    }
}
