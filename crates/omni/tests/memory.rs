//! On the CPU, matrices stay in the file: loading holds vectors and what had to be converted, and above that one tensor.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use omni_core::PlaceKind;
use peak_alloc::PeakAlloc;
use qwen3_omni::{Component, Dtype, Error, Omni, OmniCheckpoint};
use weights_tools::init::{Options, init};
use weights_tools::quantize::{Plan, Recipe};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tokenizer, template, config, the names in the headers; the tokenizer is the most of it.
const OTHER: usize = 4 << 20;

/// Experts that outweigh everything else: 8 layers of 8 × 3 × 2048 × 64.
fn model(directory: &Path, dtype: Dtype, plan: Option<Plan>) -> PathBuf {
    let config = directory.join("config.json");
    let text = std::fs::read_to_string(testkit::tiny().join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["thinker_config"]["text_config"]["moe_intermediate_size"] = 2048.into();
    std::fs::write(&config, json.to_string()).unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.json"] {
        std::fs::copy(testkit::tiny().join(file), directory.join(file)).unwrap();
    }
    let out = directory.join("model");
    let (layers, shard_bytes, restart) = (Some(8), 8_000_000, false);
    init(
        &Options { config, out: out.clone(), seed: 1, layers, dtype, plan, shard_bytes, for_training: false, restart },
        |_| {},
    )
    .unwrap();
    out
}

/// Bytes of the thinker on disk, bytes of its vectors in single precision, and elements of its matrices.
fn sizes(directory: &Path) -> (usize, usize, usize) {
    let checkpoint = OmniCheckpoint::open(directory).unwrap();
    let thinker = || checkpoint.tensors().iter().filter(|(name, _)| Component::of(name) == Some(Component::Thinker));
    let elements = |rank: usize| {
        thinker()
            .filter(|(_, t)| t.shape.len() == rank && t.float_type().is_some())
            .map(|(_, t)| t.shape.iter().product::<usize>())
            .sum()
    };
    (thinker().map(|(_, tensor)| tensor.len()).sum(), 4 * elements(1), elements(2))
}

/// Held by the one test that allocates.
static TURN: Mutex<()> = Mutex::new(());

/// What loading the thinker as `dtype` holds of the allocator in the end, and the most it held on the way; and by how much all
/// memory of the process that belongs to no file grew, where the system tells.
fn load(directory: &Path, dtype: Dtype) -> (usize, usize, Option<usize>) {
    let (before, all_before) = (MEMORY.current_usage(), without_file());
    MEMORY.reset_peak_usage();
    let omni = Omni::builder(directory).dtype(dtype).text_only().without_media().load().unwrap();
    let used = (MEMORY.current_usage() - before, MEMORY.peak_usage() - before);
    let all = all_before.and_then(|before| Some(without_file()?.saturating_sub(before)));
    drop(omni);
    (used.0, used.1, all)
}

/// Bytes of this process's memory that belong to no file.
fn without_file() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

#[test]
fn loading_holds_little_more_than_what_cannot_stay_in_the_file() {
    let _turn = TURN.lock().unwrap();
    let largest = 2048 * 64 * 4;
    let four_bits = Plan { recipe: Some(Recipe::Gb24), ..Plan::default() };
    for (stored, plan) in [(Dtype::Bf16, None), (Dtype::Bf16, Some(four_bits)), (Dtype::F32, None)] {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("{stored}{}", if plan.is_some() { ", packed" } else { "" });
        let model = model(directory.path(), stored, plan);
        let (weights, vectors, matrices) = sizes(&model);
        assert!(weights > 2 * OTHER, "the test's sizes show nothing: {weights} bytes of weights");
        for asked in [Dtype::F32, Dtype::Bf16] {
            let (held, peak, all) = load(&model, asked);
            let converted = if (stored, asked) == (Dtype::F32, Dtype::Bf16) { 2 * matrices } else { 0 };
            // The decoder has its own copy of its norms. Converted matrices lie in huge pages beside the allocator's memory,
            // small ones within it.
            let expected = 2 * vectors + OTHER;
            assert!(held <= expected, "{name} as {asked}: {held} bytes held of {expected}");
            if let Some(all) = all {
                let most = converted + expected + largest + (2 << 20);
                assert!(
                    all + held >= converted && all <= most,
                    "{name} as {asked}: {all} bytes, {most} expected at most"
                );
            }
            let checkpoint = OmniCheckpoint::open(&model).unwrap();
            let need = checkpoint.memory_estimate(&[Component::Thinker], PlaceKind::Host, asked);
            assert_eq!(need.resident, (converted + vectors) as u64, "{name} as {asked}");
            let mapped = if converted > 0 { 0 } else { weights - vectors / 4 * stored.size() };
            assert!(
                need.mapped as usize <= mapped && need.mapped as usize * 100 >= 99 * mapped,
                "{need:?}, {mapped} mapped"
            );
            assert!(peak <= expected + largest, "{name} as {asked}: peak {peak}, {expected} bytes held at most");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers_before_it_is_read() {
    let _turn = TURN.lock().unwrap();
    let load = |limit: u64| Omni::builder(testkit::nano()).dtype(Dtype::F32).memory_limit(limit).load();
    let checkpoint = OmniCheckpoint::open(testkit::nano()).unwrap();
    let weights = checkpoint.memory_estimate(&Component::ALL, PlaceKind::Host, Dtype::F32);
    assert!(weights.resident > 0 && weights.mapped > weights.resident, "{weights:?}");
    let need = Omni::builder(testkit::nano()).dtype(Dtype::F32).memory_estimate().unwrap();
    // Each part's engine keeps buffers between steps.
    let kept = (Component::ALL.len() * nn::HostEngine::KEPT_BYTES) as u64;
    assert_eq!((need.resident, need.mapped), (weights.resident + kept, weights.mapped));
    let error = load(need.resident - 1).err().unwrap();
    assert!(
        matches!(error, Error::Memory { needed, available, .. } if (needed, available) == (need.resident, need.resident - 1))
    );
    let message = error.to_string();
    assert!(message.contains(&need.resident.to_string()) && message.contains("text_only"), "{message}");
    // What is mapped need not fit: it runs, from disk.
    load(need.resident).unwrap();
    // On a device of its own everything is held.
    let device = checkpoint.memory_estimate(&Component::ALL, PlaceKind::Device, Dtype::Bf16);
    let stored: usize = checkpoint.tensors().values().map(|tensor| tensor.len()).sum();
    assert_eq!((device.resident, device.mapped), (stored as u64, 0));
}
