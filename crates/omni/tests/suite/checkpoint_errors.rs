//! Damaged and incomplete checkpoints give one error that names the thing and what was expected.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use qwen3_omni::checkpoint::{CheckpointError, ConfigFile};
use qwen3_omni::{Component, Error, Omni, OmniCheckpoint, OmniConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::source_of;

fn tiny() -> TempDir {
    testkit::copy_of_tiny(&testkit::TINY_FILES)
}

fn shard(directory: &TempDir, index: usize) -> PathBuf {
    directory.path().join(format!("model-{index:05}-of-00003.safetensors"))
}

fn error(directory: impl AsRef<Path>) -> String {
    match OmniCheckpoint::open(directory) {
        Ok(checkpoint) => checkpoint.check(&Component::ALL).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// Rewrites a shard's header; the tensor data stays.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let parts = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]];
    std::fs::write(path, parts.concat()).unwrap();
}

fn first_tensor(header: &Value) -> String {
    header.as_object().unwrap().keys().find(|name| *name != "__metadata__").unwrap().clone()
}

#[test]
fn a_whole_checkpoint_is_clean_in_both_key_styles() {
    let directory = tiny();
    OmniCheckpoint::open(directory.path()).unwrap().check(&Component::ALL).unwrap();
    std::fs::copy(testkit::tiny().join("alt/config.transformers5.json"), directory.path().join("config.json")).unwrap();
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    checkpoint.check(&Component::ALL).unwrap();
    assert_eq!(checkpoint.config().talker().unwrap().text.experts(), 6);
    assert_eq!(checkpoint.config().thinker.text.rope_section(), Some([6, 5, 5]));
}

#[test]
fn errors_keep_what_they_came_from() {
    let directory = tiny();
    std::fs::write(directory.path().join("config.json"), "{").unwrap();
    let error = Omni::builder(directory.path()).load().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(source_of::<serde_json::Error>(source_of::<CheckpointError>(&error)).is_eof());
    let directory = tiny();
    std::fs::write(shard(&directory, 1), [1; 4]).unwrap();
    let error = Omni::builder(directory.path()).load().unwrap_err();
    assert!(matches!(error, Error::Weights { .. }), "{error}");
    assert!(matches!(source_of::<CheckpointError>(&error), CheckpointError::Shard { source: Some(_), .. }));
    let directory = tiny();
    std::fs::write(directory.path().join("chat_template.json"), r#"{"chat_template": "{% if %}"}"#).unwrap();
    let error = Omni::builder(directory.path()).load().unwrap_err();
    assert!(matches!(error, Error::Config { .. }) && error.source().is_some(), "{error}");
}

#[test]
fn missing_directory_config_or_weights() {
    assert_names(&error("/no/such/model"), &["/no/such/model", "no such directory"]);
    let directory = testkit::copy_of_tiny(&["config.json"]);
    assert_names(&error(directory.path()), &["model.safetensors.index.json", "model.safetensors"]);
    std::fs::remove_file(directory.path().join("config.json")).unwrap();
    assert_names(&error(directory.path()), &["config.json"]);
}

#[test]
fn a_config_without_a_needed_key_names_file_and_key() {
    for (pointer, key) in [
        ("/thinker_config/text_config", "hidden_size"),
        ("/talker_config", "speaker_id"),
        ("/code2wav_config", "sliding_window"),
        ("", "im_end_token_id"),
    ] {
        let directory = tiny();
        testkit::edit_json(&directory.path().join("config.json"), |config| {
            config.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key).unwrap();
        });
        let place = pointer.trim_start_matches('/').replace('/', ".");
        assert_names(&error(directory.path()), &["config.json", key, &place]);
    }
    for (key, name) in [("rope_theta", "rope_theta"), ("num_experts", "num_experts")] {
        let directory = tiny();
        testkit::edit_json(&directory.path().join("config.json"), |config| {
            config["thinker_config"]["text_config"].as_object_mut().unwrap().remove(key).unwrap();
        });
        assert_names(&error(directory.path()), &["thinker_config.text_config", name]);
    }
}

#[test]
fn contradictions_in_the_config_are_named() {
    let cases: [(&str, &str, Value); 10] = [
        ("/thinker_config/text_config", "num_hidden_layers", json!(0)),
        ("/thinker_config/text_config", "num_attention_heads", json!(0)),
        ("/thinker_config/audio_config", "n_window", json!(0)),
        ("/talker_config", "accept_hidden_layer", json!(6)),
        ("/code2wav_config", "codebook_size", json!(63)),
        ("/thinker_config/text_config", "num_experts_per_tok", json!(99)),
        ("/thinker_config/text_config", "num_key_value_heads", json!(3)),
        ("/talker_config", "thinker_hidden_size", json!(7)),
        ("/talker_config", "codec_bos_id", json!(100_000)),
        ("/code2wav_config", "num_quantizers", json!(5)),
    ];
    for (pointer, key, value) in cases {
        let directory = tiny();
        testkit::edit_json(&directory.path().join("config.json"), |config| {
            config.pointer_mut(pointer).unwrap()[key] = value
        });
        let expected = if key == "num_key_value_heads" { "key/value heads" } else { key };
        assert_names(&error(directory.path()), &["config.json", expected]);
    }
}

#[test]
fn a_missing_shard_is_named_with_the_index() {
    let directory = tiny();
    std::fs::remove_file(shard(&directory, 2)).unwrap();
    assert_names(&error(directory.path()), &["model-00002-of-00003.safetensors", "index.json", "not there"]);
}

#[test]
fn an_index_that_names_an_absent_file_or_tensor() {
    let directory = tiny();
    testkit::edit_json(&directory.path().join("model.safetensors.index.json"), |index| {
        index["weight_map"]["thinker.lm_head.weight"] = json!("elsewhere.safetensors");
    });
    assert_names(&error(directory.path()), &["elsewhere.safetensors", "thinker.lm_head.weight"]);
    let directory = tiny();
    testkit::edit_json(&directory.path().join("model.safetensors.index.json"), |index| {
        index["weight_map"]["made.up"] = json!("model-00001-of-00003.safetensors");
    });
    assert_names(&error(directory.path()), &["model-00001-of-00003.safetensors", "made.up"]);
}

#[test]
fn truncated_shards_tell_both_sizes() {
    for keep in [4, 100, 500_000] {
        let directory = tiny();
        let bytes = std::fs::read(shard(&directory, 1)).unwrap();
        std::fs::write(shard(&directory, 1), &bytes[..keep]).unwrap();
        assert_names(&error(directory.path()), &["model-00001-of-00003.safetensors", "bytes", "truncated"]);
    }
}

#[test]
fn a_header_that_lies_about_offsets_names_the_tensor() {
    let lies: [fn(&mut Value); 3] = [
        |entry| entry["data_offsets"] = json!([0, 4]),
        |entry| entry["shape"] = json!([1, 2, 3]),
        |entry| entry["data_offsets"] = json!([8, 4]),
    ];
    for lie in lies {
        let directory = tiny();
        let mut name = String::new();
        edit_header(&shard(&directory, 1), |header| {
            name = first_tensor(header);
            lie(&mut header[&name]);
        });
        assert_names(&error(directory.path()), &["model-00001-of-00003.safetensors", &name, "offsets"]);
    }
}

#[test]
fn unknown_and_unreadable_number_types_name_the_tensor() {
    let directory = tiny();
    let mut name = String::new();
    edit_header(&shard(&directory, 1), |header| {
        name = first_tensor(header);
        header[&name]["dtype"] = json!("F99");
    });
    assert_names(&error(directory.path()), &["model-00001-of-00003.safetensors", &name, "F99", "BF16"]);
    let directory = tiny();
    // Same size, so the file is sound, but it is no float.
    edit_header(&shard(&directory, 1), |header| header[&name]["dtype"] = json!("I32"));
    assert_names(&error(directory.path()), &[&name, "I32", "BF16"]);
}

#[test]
fn one_error_lists_every_missing_unexpected_and_mismatched_tensor_with_shapes() {
    let directory = tiny();
    edit_header(&shard(&directory, 1), |header| {
        let entries = header.as_object_mut().unwrap();
        let names: Vec<String> = entries.keys().filter(|name| *name != "__metadata__").take(2).cloned().collect();
        let renamed = entries.remove(&names[0]).unwrap();
        entries.insert(format!("{}.extra", names[0]), renamed);
        let count: u64 = entries[&names[1]]["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        entries[&names[1]]["shape"] = json!([count, 1]);
    });
    // Without an index the header alone decides.
    std::fs::remove_file(directory.path().join("model.safetensors.index.json")).unwrap();
    std::fs::rename(shard(&directory, 1), directory.path().join("model.safetensors")).unwrap();
    let message = error(directory.path());
    assert_names(&message, &["missing    ", "unexpected ", ".extra: found [", "mismatched ", ", 1]"]);
    let whole = OmniCheckpoint::open(testkit::tiny()).unwrap();
    let held = OmniCheckpoint::open(directory.path()).unwrap().tensors().len();
    assert_names(&message, &[&format!("{} missing, 1 unexpected and 1 mismatched", whole.tensors().len() - held + 1)]);
}

#[test]
fn parts_that_are_not_asked_for_may_be_absent() {
    let directory = tiny();
    testkit::edit_json(&directory.path().join("config.json"), |config| {
        config["enable_audio_output"] = json!(false);
        config.as_object_mut().unwrap().remove("talker_config");
        config.as_object_mut().unwrap().remove("code2wav_config");
    });
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    checkpoint.check(&[Component::Thinker, Component::AudioEncoder, Component::VisionEncoder]).unwrap();
    let message = checkpoint.config().talker().unwrap_err().to_string();
    assert_names(&message, &["no talker", "enable_audio_output"]);
    // Asked for, they are not used.
    assert_names(&checkpoint.report(&Component::ALL).unused(), &["not used", "code2wav."]);
}

#[test]
fn a_text_only_load_needs_neither_the_talkers_shards_nor_its_config() {
    let directory = tiny();
    let index = directory.path().join("model.safetensors.index.json");
    testkit::edit_json(&index, |index| {
        // As if the talker lay in a shard of its own, which was not fetched.
        for (name, shard) in index["weight_map"].as_object_mut().unwrap() {
            if name.starts_with("talker.") {
                *shard = json!("talker.safetensors");
            }
        }
    });
    testkit::edit_json(&directory.path().join("config.json"), |config| {
        config["talker_config"]["num_code_groups"] = json!(1);
    });
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    checkpoint.check(&[Component::Thinker]).unwrap();
    let message = checkpoint.check(&[Component::Talker]).unwrap_err().to_string();
    assert_names(&message, &["config.json", "num_code_groups is 1", "at least 2"]);
    testkit::edit_json(&directory.path().join("config.json"), |config| {
        config["talker_config"]["num_code_groups"] = json!(4);
    });
    assert_names(&error(directory.path()), &["talker.safetensors", "talker.", "not there"]);
}

/// Calls `visit` with the path of every value that is no object.
fn leaves(value: &Value, path: String, visit: &mut impl FnMut(String)) {
    match value.as_object() {
        Some(object) => object.iter().for_each(|(key, value)| leaves(value, format!("{path}/{key}"), visit)),
        None => visit(path),
    }
}

#[test]
fn whatever_stands_at_a_key_of_the_config_gives_a_config_or_an_error() {
    let path = testkit::tiny().join("config.json");
    let whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut pointers = Vec::new();
    leaves(&whole, String::new(), &mut |pointer| pointers.push(pointer));
    assert!(pointers.len() > 100, "{} keys", pointers.len());
    for pointer in pointers {
        for wrong in
            [json!(0), json!(1), json!(-1), json!(0.5), json!([]), json!([0]), json!({}), json!("x"), json!(null)]
        {
            let mut changed = whole.clone();
            *changed.pointer_mut(&pointer).unwrap() = wrong;
            // No panic, and what is accepted lists its tensors.
            if let Ok(config) = OmniConfig::of(&ConfigFile::of_json(&path, changed)) {
                config.manifest().unwrap();
            }
        }
    }
}
