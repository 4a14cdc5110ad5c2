#![no_main]
//! Any bytes as a shard beside a sound config, and as the config itself.

use libfuzzer_sys::fuzz_target;
use qwen3_omni_checkpoint::{Checkpoint, Expected, Manifest, TensorKind};
use qwen3_omni_fuzz::begin;

const CONFIG: &str = include_str!("../../crates/testkit/fixtures/tiny/config.json");

fn open(config: &[u8], shard: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    std::fs::write(directory.path().join("config.json"), config).expect("it can be written to");
    std::fs::write(directory.path().join("model.safetensors"), shard).expect("it can be written to");
    if let Ok(checkpoint) = Checkpoint::open(directory.path()) {
        let needed = Expected { shape: vec![8, 4], kind: TensorKind::Linear };
        let _ = checkpoint.check(&Manifest::from([("a.weight".to_owned(), needed)]), |_| true);
    }
}

fuzz_target!(init: begin(), |bytes: &[u8]| {
    open(CONFIG.as_bytes(), bytes);
    open(bytes, &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']);
});
