//! A checkpoint for measurements where no released weights are at hand.

use std::path::{Path, PathBuf};

use omni_core::Dtype;
use serde_json::Value;

/// A random checkpoint with the released widths, some layers of thinker and talker, and nano's tokenizer with its special ids.
pub fn checkpoint(directory: &Path, layers: usize) -> PathBuf {
    let nano: Value = serde_json::from_slice(&std::fs::read(testkit::nano().join("config.json")).unwrap()).unwrap();
    let mut config: Value = serde_json::from_str(weights_tools::inspect::RELEASED).unwrap();
    take_ids(&mut config, &nano);
    take_ids(&mut config["thinker_config"], &nano["thinker_config"]);
    take_ids(&mut config["talker_config"], &nano["thinker_config"]);
    let source = directory.join("source");
    std::fs::create_dir(&source).unwrap();
    for entry in std::fs::read_dir(testkit::nano()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.extension().is_some_and(|extension| extension != "safetensors") {
            std::fs::copy(&path, source.join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(source.join("config.json"), config.to_string()).unwrap();
    let out = directory.join("model");
    let options = weights_tools::init::Options {
        config: source.join("config.json"),
        out: out.clone(),
        seed: 0,
        layers: Some(layers),
        dtype: Dtype::Bf16,
        plan: None,
        shard_bytes: 4 << 30,
        restart: false,
    };
    weights_tools::init::init(&options, |_| {}).unwrap();
    out
}

/// Ids that the tokenizer and the config must agree on.
fn take_ids(config: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        if key.ends_with("token_id") && config.get(key).is_some() {
            config[key] = value.clone();
        }
    }
}
