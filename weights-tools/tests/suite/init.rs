//! `init` writes checkpoints that load, whole and reproducible.

use checkpoint::{ConfigFile, PlaceKind, QuantizationConfig, RandomCheckpoint};
use omni_core::Dtype;
use qwen3_omni::{Component, GenerateOptions, Message, Omni, OmniCheckpoint, OmniConfig};
use qwen3_omni_weights_tools::init::{Options, init, init_without_weights};
use qwen3_omni_weights_tools::quantize::Plan;

fn options(out: &std::path::Path) -> Options {
    Options {
        config: testkit::tiny().join("config.json"),
        out: out.to_owned(),
        seed: 7,
        layers: Some(2),
        dtype: Dtype::Bf16,
        plan: None,
        shard_bytes: 500_000,
        for_training: false,
        restart: false,
    }
}

#[test]
fn what_init_writes_loads_and_answers() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = None;
    init(&options(directory.path()), |progress| last = Some(progress)).unwrap();
    let last = last.unwrap();
    assert_eq!(last.bytes, last.total);
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    assert!(checkpoint.shards() > 2);
    assert_eq!(checkpoint.config().thinker.text.num_hidden_layers, 2);
    checkpoint.check(&Component::ALL).unwrap();
    let omni = Omni::builder(directory.path()).load().unwrap();
    let options = GenerateOptions::default().max_new_tokens(4).max_codes(4);
    let reply = omni.generate(&[Message::user().text("hello")], &options).unwrap();
    assert_eq!(reply.token_ids.len(), 4);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for directory in [&a, &b] {
        init(&options(directory.path()), |_| {}).unwrap();
    }
    for entry in std::fs::read_dir(a.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(
            std::fs::read(a.path().join(&name)).unwrap(),
            std::fs::read(b.path().join(&name)).unwrap(),
            "{name:?}"
        );
    }
}

#[test]
fn values_to_train_from_are_scaled_by_their_place() {
    let directory = tempfile::tempdir().unwrap();
    init(&Options { for_training: true, dtype: Dtype::F32, ..options(directory.path()) }, |_| {}).unwrap();
    let checkpoint = checkpoint::Checkpoint::open(directory.path()).unwrap();
    let deviation = |name: &str| {
        let (values, _) = checkpoint.bytes(&checkpoint.tensors()[name]).as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
    };
    let attention = "thinker.model.layers.0.self_attn";
    for (name, expected) in [
        ("thinker.model.embed_tokens.weight", 0.4),
        (&format!("{attention}.q_proj.weight"), 1.0 / 64.0_f32.sqrt()),
        (&format!("{attention}.o_proj.weight"), 0.4 / 128.0_f32.sqrt()),
        ("thinker.lm_head.weight", 0.3 / 64.0_f32.sqrt()),
    ] {
        assert!((deviation(name) / expected - 1.0).abs() < 0.05, "{name}: {}, expected {expected}", deviation(name));
    }
    let packed =
        Options { for_training: true, plan: Some(Plan::default()), ..options(&directory.path().join("packed")) };
    assert!(init(&packed, |_| {}).unwrap_err().to_string().contains("cannot be packed"));
    for (name, expected) in [("thinker.model.norm.weight", 1.0), ("thinker.audio_tower.proj1.bias", 0.0)] {
        assert_eq!(deviation(name), expected, "{name}");
    }
}

#[test]
fn an_existing_checkpoint_is_not_overwritten_and_bad_input_is_named() {
    let directory = tempfile::tempdir().unwrap();
    init(&options(directory.path()), |_| {}).unwrap();
    let message = init(&options(directory.path()), |_| {}).unwrap_err().to_string();
    assert!(message.contains("already"), "{message}");
    // Neither are the files of the directory the config comes from.
    let own = testkit::copy_of_tiny(&["config.json", "vocab.json"]);
    let inside = Options { config: own.path().join("config.json"), ..options(own.path()) };
    let message = init(&inside, |_| {}).unwrap_err().to_string();
    assert!(message.contains("config.json already"), "{message}");
    assert!(std::fs::metadata(own.path().join("vocab.json")).unwrap().len() > 0);
    let absent = Options { config: "absent.json".into(), ..options(directory.path()) };
    assert!(init(&absent, |_| {}).unwrap_err().to_string().contains("absent.json"));
    let none = Options { layers: Some(0), ..options(&directory.path().join("new")) };
    assert!(init(&none, |_| {}).unwrap_err().to_string().contains("--layers"));
}

#[test]
fn a_directory_without_weights_has_the_same_config_and_tokenizer_and_no_shards() {
    for plan in [None, Some(Plan { bits: Some(4), ..Plan::default() })] {
        let [blank, whole] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        init_without_weights(&Options { plan: plan.clone(), ..options(blank.path()) }).unwrap();
        init(&Options { plan, ..options(whole.path()) }, |_| {}).unwrap();
        let files = |directory: &tempfile::TempDir| {
            let files = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
            files.map(|name| name.into_string().unwrap()).collect::<std::collections::BTreeSet<_>>()
        };
        let extra: Vec<String> = files(&whole).difference(&files(&blank)).cloned().collect();
        assert!(extra.iter().all(|name| name.contains("safetensors")), "{extra:?}");
        assert_eq!(files(&blank).len() + extra.len(), files(&whole).len());
        for file in files(&blank) {
            let [a, b] = [&blank, &whole].map(|directory| std::fs::read(directory.path().join(&file)).unwrap());
            assert!(a == b, "{file}");
        }
        // What will be drawn takes as much memory as what was written.
        let file = ConfigFile::read(&blank.path().join("config.json")).unwrap();
        let manifest = OmniConfig::of(&file).unwrap().manifest().unwrap();
        let drawn = RandomCheckpoint::new(manifest, QuantizationConfig::of(&file).unwrap().as_ref());
        let drawn = drawn.memory_estimate(|_| true, PlaceKind::Device, Dtype::F32);
        let written = OmniCheckpoint::open(whole.path()).unwrap();
        assert_eq!(drawn, written.memory_estimate(&Component::ALL, PlaceKind::Device, Dtype::F32));
        let message = init_without_weights(&options(blank.path())).unwrap_err().to_string();
        assert!(message.contains("config.json already"), "{message}");
    }
}
