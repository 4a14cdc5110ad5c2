//! Losses, gradients and three optimiser steps of every stage equal those of the reference.

use burn::tensor::Device;
use qwen3_omni_train::verify::{Model, Outcome};

/// Recomputes a case and lists what is beyond its limit.
fn check(case: &str) {
    let model = Model::open(&testkit::tiny(), &testkit::training(), &Device::flex()).unwrap();
    let Outcome::Checked(checks) = model.run(case).unwrap() else { panic!("{case} is not known") };
    let failed: Vec<String> = checks
        .0
        .iter()
        .filter(|check| !check.passed())
        .map(|check| format!("{}: {:.2e}, limit {:.2e}", check.quantity, check.difference, check.limit))
        .collect();
    assert!(
        failed.is_empty() && !checks.0.is_empty(),
        "{case}: {} of {}:\n{}",
        failed.len(),
        checks.0.len(),
        failed.join("\n")
    );
}

#[test]
fn thinker_text() {
    check("thinker_text");
}

#[test]
fn thinker_media() {
    check("thinker_media");
}

#[test]
fn thinker_media_adapters() {
    check("thinker_media_adapters");
}

#[test]
fn thinker_media_encoders() {
    check("thinker_media_encoders");
}

#[test]
fn distillation() {
    check("distill");
}

#[test]
fn group_sequence_policy_optimisation() {
    check("gspo");
}

#[test]
fn talker() {
    check("talker");
}

#[test]
fn direct_preference_optimisation() {
    check("dpo");
}

#[test]
fn new_speaker_with_adapters() {
    check("speaker");
}

#[test]
fn vocoder() {
    check("code2wav");
}

#[test]
fn audio_encoder_with_text_decoder() {
    check("aut_asr");
}

#[test]
fn numbers() {
    check("numbers");
}
