//! `verify` finds what it must find, and refuses to be satisfied by less.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use qwen3_omni::Device;
use qwen3_omni_weights_tools::verify::{CaseReport, Options, Outcome, run};
use safetensors::SafeTensors;

fn verify(golden: &Path, only: &[&str]) -> Vec<CaseReport> {
    let only = only.iter().map(|name| name.to_string()).collect();
    let options = Options { model: testkit::tiny(), golden: golden.to_owned(), only, device: Device::Cpu };
    run(&options, |_| {}).unwrap()
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
    let options = Options {
        model: testkit::tiny(),
        golden: testkit::golden(),
        only: vec!["nothing".into()],
        device: Device::Cpu,
    };
    assert!(run(&options, |_| {}).unwrap_err().to_string().contains("nothing"));
}
