//! Loading holds the final weights and, above them, at most one layer's experts.
#![allow(clippy::unwrap_used)]

use checkpoint::{Checkpoint, Component};
use peak_alloc::PeakAlloc;
use qwen3_omni::Omni;
use weights_tools::init::{Options, init};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tokenizer, template, config and bookkeeping; the tokenizer is the most of it.
const OTHER: usize = 3 << 20;

#[test]
fn peak_memory_above_the_final_weights_is_one_layers_experts() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let text = std::fs::read_to_string(testkit::tiny().join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    // Experts that outweigh everything else: 8 layers of 8 × 3 × 1024 × 64.
    json["thinker_config"]["text_config"]["moe_intermediate_size"] = 1024.into();
    std::fs::write(&config, json.to_string()).unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.json"] {
        std::fs::copy(testkit::tiny().join(file), directory.path().join(file)).unwrap();
    }
    let out = directory.path().join("model");
    let options = Options {
        config,
        out: out.clone(),
        seed: 1,
        layers: Some(8),
        dtype: omni_core::Dtype::Bf16,
        plan: None,
        shard_bytes: 8_000_000,
        restart: false,
    };
    init(&options, |_| {}).unwrap();

    let checkpoint = Checkpoint::open(&out).unwrap();
    let thinker = checkpoint.tensors().iter().filter(|(name, _)| Component::of(name) == Some(Component::Thinker));
    // bf16 on disk, f32 in memory.
    let weights: usize = thinker.map(|(_, tensor)| 2 * tensor.len()).sum();
    let layer = 8 * 3 * 1024 * 64 * 4;
    assert!(weights > 7 * layer, "the test's sizes show nothing");
    drop(checkpoint);

    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let omni = Omni::builder(&out).text_only().without_media().load().unwrap();
    let (peak, held) = (MEMORY.peak_usage() - before, MEMORY.current_usage() - before);
    assert!(held >= weights, "{held} bytes held, {weights} of weights");
    assert!(peak <= weights + layer + OTHER, "peak {peak}: {weights} of weights, {layer} of one layer's experts");
    drop(omni);
}
