//! Fixtures and device choice for the tests of the Qwen3-Omni crates.
//!
//! `fixtures/` holds the small random-weight checkpoint, golden data the reference implementation made from it, the
//! released config, and the list of all released tensor names. A missing fixture fails the test that asks for it.

// Crates that check a few cases use a few of its parts.
#[cfg(feature = "parity")]
#[cfg_attr(not(feature = "parity-omni"), allow(dead_code, unused_imports))]
pub mod parity;

use std::path::{Path, PathBuf};

/// The folder of all fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The small random-weight checkpoint: right in structure, meaningless in output.
pub fn tiny() -> PathBuf {
    fixtures().join("tiny")
}

/// Golden inputs and outputs of the small checkpoint.
pub fn golden() -> PathBuf {
    fixtures().join("golden")
}

/// Golden losses, gradients and optimiser steps of the small checkpoint.
pub fn training() -> PathBuf {
    fixtures().join("train")
}

/// Adapters that PEFT has made for the small checkpoint, with what it merges from them.
pub fn adapters() -> PathBuf {
    fixtures().join("adapters")
}

/// The reference's own errors in bf16, measured against the golden data.
pub fn bf16_errors() -> PathBuf {
    fixtures().join("bf16/tiny.json")
}

/// Small sound, picture and video files of every format that is read.
pub fn media() -> PathBuf {
    fixtures().join("media")
}

/// The default model of the repository: small, but really trained.
pub fn nano() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/assets/nano")
}

/// A fresh directory with some files of the small checkpoint.
///
/// # Panics
/// If a file is missing.
pub fn copy_of_tiny(files: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    for file in files {
        std::fs::copy(tiny().join(file), directory.path().join(file)).expect("the fixture exists");
    }
    directory
}

/// A copy of a checkpoint directory whose files may be changed.
///
/// # Panics
/// If the directory cannot be read.
pub fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory can be made");
    for entry in std::fs::read_dir(directory).expect("the directory is there") {
        let path = entry.expect("it can be read").path();
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a file has a name")))
                .expect("it can be copied");
        }
    }
    copy
}

/// Changes a JSON file; one that is not there begins as `{}`.
///
/// # Panics
/// If the file is no JSON.
#[cfg(feature = "parity")]
pub fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let text = std::fs::read(path).unwrap_or_else(|_| b"{}".to_vec());
    let mut json = serde_json::from_slice(&text).expect("the file is JSON");
    change(&mut json);
    std::fs::write(path, json.to_string()).expect("it can be written to");
}

/// A copy of the small checkpoint with a text decoder behind its audio encoder: random weights, those of the golden training case.
///
/// # Panics
/// If a fixture is missing.
#[cfg(feature = "parity")]
pub fn tiny_with_decoder() -> tempfile::TempDir {
    let copy = copy_of(&tiny());
    let bytes = std::fs::read(training().join("aut_asr.safetensors")).expect("the fixture exists");
    let golden = safetensors::SafeTensors::deserialize(&bytes).expect("the fixture is whole");
    let named = |(name, view): (String, _)| Some((name.strip_prefix("in.")?.to_owned(), view));
    let decoder = golden.tensors().into_iter().filter_map(named).filter(|(name, _)| name.starts_with("decoder."));
    safetensors::serialize_to_file(decoder, None, &copy.path().join("aut-decoder.safetensors"))
        .expect("it can be written");
    copy
}

/// Recomputes the checksums of all pages of an OGG file, so that what was changed in it reaches the decoder.
pub fn repair_ogg(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(4).position(|window| window == b"OggS") {
        at += found;
        let Some(segments) = bytes.get(at + 26).map(|count| usize::from(*count)) else { return };
        let Some(lengths) = bytes.get(at + 27..at + 27 + segments) else { return };
        let end = at + 27 + segments + lengths.iter().map(|length| usize::from(*length)).sum::<usize>();
        let Some(page) = bytes.get_mut(at..end) else { return };
        page[22..26].fill(0);
        let checksum = page.iter().fold(0u32, |sum, byte| {
            let shift = |sum: u32, _| (sum << 1) ^ (0x04c1_1db7 & (sum >> 31).wrapping_neg());
            (0..8).fold(sum ^ u32::from(*byte) << 24, shift)
        });
        page[22..26].copy_from_slice(&checksum.to_le_bytes());
        at = end;
    }
}

/// Every file of the small checkpoint.
pub const TINY_FILES: [&str; 11] = [
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
];

/// The device tests run on: `OMNI_TEST_DEVICE`, or the CPU.
pub fn device_name() -> String {
    std::env::var("OMNI_TEST_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// `count` random numbers of mean 0 and variance 1, the same for the same seed. A device's own random source would be shared by all
/// tests that run at the same time.
pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    // The sum of twelve uniform numbers has variance 1.
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// Distance of numbers from a reference: the cosine similarity of both, each taken as one vector, and the largest difference as a
/// share of the reference's largest magnitude. A value that is not a number counts as infinitely far.
///
/// # Panics
/// If the lengths differ.
pub fn distance(reference: &[f32], other: &[f32]) -> (f64, f64) {
    assert_eq!(reference.len(), other.len(), "as many numbers as the reference");
    let pairs = || reference.iter().zip(other).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let [product, squares, others] = pairs().fold([0.0; 3], |[p, a2, b2], (a, b)| [p + a * b, a2 + a * a, b2 + b * b]);
    let largest = pairs().fold(0.0, |most: f64, (a, _)| most.max(a.abs()));
    let differences = pairs().map(|(a, b)| if (a - b).is_finite() { (a - b).abs() } else { f64::INFINITY });
    (product / (squares * others).sqrt(), differences.fold(0.0, f64::max) / largest)
}

/// The error behind another one.
///
/// # Panics
/// If there is none, or one of another type.
pub fn source_of<T: std::error::Error + 'static>(error: &dyn std::error::Error) -> &T {
    let source = error.source().unwrap_or_else(|| panic!("{error}: no source"));
    source.downcast_ref().unwrap_or_else(|| panic!("{error}: another source: {source:?}"))
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
