//! `verify` finds values that are off, and fails for cases and tensors that it cannot compare.

use std::path::{Path, PathBuf};

use qwen3_omni::{Device, Dtype};
use qwen3_omni_weights_tools::verify::{CaseReport, Engine, Options, Outcome, run};
use safetensors::SafeTensors;

fn verify(golden: &Path, only: &[&str]) -> Vec<CaseReport> {
    let only = only.iter().map(|name| name.to_string()).collect();
    run(&Options { only, ..Options::new(testkit::tiny(), golden) }, |_| {}).unwrap()
}

/// A copy of one golden case under another name, with the first value of a tensor moved by `offset`.
fn altered(directory: &Path, case: &str, name: &str, tensor: &str, offset: f32) -> PathBuf {
    let mut bytes = std::fs::read(testkit::golden().join(format!("{case}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let at = file.tensor(tensor).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) + offset;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let path = directory.join(format!("{name}.safetensors"));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_case_of_a_known_kind_passes_under_any_name_and_fails_when_a_value_is_off() {
    let directory = tempfile::tempdir().unwrap();
    for (case, name, tensor, offset, passes) in [
        ("code2wav_5", "code2wav_7", "wav", 0.0, true),
        ("code2wav_5", "code2wav_8", "wav", 1e-3, false),
        ("code2wav_5", "code2wav_9", "layer_1", f32::NAN, false),
        ("thinker_text", "thinker_elsewhere", "logits", 1e-3, false),
        ("positions_image", "positions_other", "position_ids", 1.0, false),
    ] {
        altered(directory.path(), case, name, tensor, offset);
        let report = &verify(directory.path(), &[name])[0];
        assert_eq!(report.outcome == Outcome::Passed, passes, "{name}: {:?}", report.outcome);
        let failed: Vec<&str> = report.checks.iter().filter(|c| !c.passed).map(|c| c.tensor.as_str()).collect();
        assert_eq!(failed, if passes { vec![] } else { vec![tensor] }, "{name}");
    }
}

#[test]
fn unknown_kinds_are_not_covered_and_fail_unless_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let from = testkit::golden().join("sampling.safetensors");
    std::fs::copy(from, directory.path().join("mystery.safetensors")).unwrap();
    for report in verify(directory.path(), &[]) {
        assert!(matches!(report.outcome, Outcome::NotCovered(_)), "{}: {:?}", report.case, report.outcome);
        assert!(!report.passes(false) && report.passes(true));
    }
}

#[test]
fn a_tensor_nobody_compares_fails_the_case() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(testkit::golden().join("code2wav_5.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name.replace("norm", "nrom"), view)).collect();
    safetensors::serialize_to_file(renamed, None, &directory.path().join("code2wav_5.safetensors")).unwrap();
    let report = &verify(directory.path(), &[])[0];
    let note = report.checks.iter().find(|c| c.tensor == "nrom").unwrap().note.clone();
    assert_eq!(note.as_deref(), Some("was not compared"));
}

#[test]
fn an_empty_selection_is_an_error() {
    let options = Options { only: vec!["nothing".into()], ..Options::new(testkit::tiny(), testkit::golden()) };
    assert!(run(&options, |_| {}).unwrap_err().to_string().contains("nothing"));
}

fn in_bf16(golden: &Path) -> Options {
    let reference_errors = Some(testkit::bf16_errors());
    Options { dtype: Dtype::Bf16, reference_errors, ..Options::new(testkit::tiny(), golden) }
}

#[test]
fn in_bf16_a_value_far_off_fails_and_so_do_many_a_little_off() {
    let directory = tempfile::tempdir().unwrap();
    altered(directory.path(), "code2wav_5", "code2wav_5", "wav", 0.2);
    let report = &run(&in_bf16(directory.path()), |_| {}).unwrap()[0];
    let failed: Vec<&str> = report.checks.iter().filter(|c| !c.passed).map(|c| c.tensor.as_str()).collect();
    assert_eq!(failed, ["wav"], "{:?}", report.outcome);

    // Each value of a thinker's layer moves by less than the largest error of a row that goes to other experts.
    let bytes = std::fs::read(testkit::golden().join("thinker_text.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let moved: Vec<u8> = file
        .tensor("layer_4")
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|value| (f32::from_le_bytes(*value) + 0.15).to_le_bytes())
        .collect();
    let shape = file.tensor("layer_4").unwrap().shape().to_vec();
    let altered = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &moved).unwrap();
    let tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| if name == "layer_4" { (name, altered.clone()) } else { (name, view) })
        .collect();
    let other = tempfile::tempdir().unwrap();
    safetensors::serialize_to_file(tensors, None, &other.path().join("thinker_text.safetensors")).unwrap();
    let report = &run(&in_bf16(other.path()), |_| {}).unwrap()[0];
    let failed: Vec<_> = report.checks.iter().filter(|c| !c.passed).collect();
    assert!(failed.len() == 1 && failed[0].tensor == "layer_4", "{failed:?}");
    assert!(failed[0].note.as_ref().unwrap().contains("root mean square"), "{failed:?}");
}

#[test]
fn a_case_whose_error_in_bf16_is_not_known_fails_and_so_does_bf16_without_any() {
    let directory = tempfile::tempdir().unwrap();
    altered(directory.path(), "code2wav_5", "code2wav_6", "wav", 0.0);
    let report = &run(&in_bf16(directory.path()), |_| {}).unwrap()[0];
    assert!(matches!(report.outcome, Outcome::Failed(_)));
    assert!(report.checks.iter().any(|check| check.note.as_ref().is_some_and(|note| note.contains("not stored"))));
    let without = Options { reference_errors: None, ..in_bf16(directory.path()) };
    assert!(run(&without, |_| {}).unwrap_err().to_string().contains("name their file"));
    let absent = Options { reference_errors: Some("nowhere.json".into()), ..in_bf16(directory.path()) };
    assert!(run(&absent, |_| {}).unwrap_err().to_string().contains("nowhere.json"));
}

#[test]
fn the_engine_of_host_memory_is_the_cpus_alone() {
    let device = Device::Open(burn::tensor::Device::flex());
    let options = Options { device, engine: Some(Engine::Host), ..Options::new(testkit::tiny(), testkit::golden()) };
    assert!(run(&options, |_| {}).unwrap_err().to_string().contains("engine of host memory"));
}
