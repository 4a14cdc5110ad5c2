//! Checkpoint directories as people save and share them: what the reference loads is loaded, and what is wrong is named.

use qwen3_omni::media::image::Pixels;
use qwen3_omni::{Component, Error, GenerateOptions, Message, Omni, OmniCheckpoint};
use serde_json::{Value, json};
use tempfile::TempDir;

fn tiny_with(file: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let directory = testkit::copy_of(&testkit::tiny());
    testkit::edit_json(&directory.path().join(file), change);
    directory
}

fn load(directory: &TempDir) -> Omni {
    Omni::builder(directory.path()).load().unwrap()
}

fn refusal(directory: &TempDir) -> String {
    Omni::builder(directory.path()).load().err().unwrap().to_string()
}

/// Rewrites every shard's header and contents as one file.
fn rewrite(directory: &TempDir, change: impl Fn(&str, &mut Vec<u8>) -> bool, extra: &[(&str, usize)]) {
    let mut tensors: Vec<(String, Value, Vec<u8>)> = Vec::new();
    let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "safetensors")) {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        for (name, entry) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let offset = |at: usize| 8 + length + entry["data_offsets"][at].as_u64().unwrap() as usize;
            let mut data = bytes[offset(0)..offset(1)].to_vec();
            if change(name, &mut data) {
                tensors.push((name.clone(), entry.clone(), data));
            }
        }
    }
    for path in files.iter().filter(|path| path.to_string_lossy().contains("model")) {
        std::fs::remove_file(path).unwrap();
    }
    for (name, values) in extra {
        tensors.push(((*name).to_owned(), json!({"dtype": "F32", "shape": [values]}), vec![0; 4 * values]));
    }
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, entry, data) in &mut tensors {
        entry["data_offsets"] = json!([at, at + data.len()]);
        at += data.len();
        header.insert(name.clone(), entry.clone());
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    tensors.iter().for_each(|(.., data)| file.extend(data));
    std::fs::write(directory.path().join("model.safetensors"), file).unwrap();
}

#[test]
fn a_length_that_the_tokenizer_was_last_used_with_cuts_no_prompt() {
    let hello = [Message::user().text("hello hello hello hello")];
    let ids = |omni: &Omni| omni.prompt(&hello, &GenerateOptions::default()).unwrap().ids().to_vec();
    let whole = ids(&Omni::builder(testkit::tiny()).load().unwrap());
    for (key, section) in [
        ("truncation", json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0})),
        (
            "padding",
            json!({"strategy": {"Fixed": 90}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                   "pad_type_id": 0, "pad_token": "!"}),
        ),
    ] {
        let directory = testkit::copy_of(&testkit::tiny());
        std::fs::copy(testkit::tiny().join("alt/tokenizer.json"), directory.path().join("tokenizer.json")).unwrap();
        testkit::edit_json(&directory.path().join("tokenizer.json"), |json| json[key] = section);
        assert_eq!(ids(&load(&directory)), whole, "{key}");
    }
}

/// The added tokens of the small checkpoint, by text.
fn added_tokens() -> Value {
    let path = testkit::tiny().join("tokenizer_config.json");
    let settings: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens = settings["added_tokens_decoder"].as_object().unwrap();
    let by_text = tokens
        .iter()
        .map(|(id, token)| (token["content"].as_str().unwrap().to_owned(), json!(id.parse::<u32>().unwrap())));
    Value::Object(by_text.collect())
}

#[test]
fn added_tokens_are_found_in_every_file_that_lists_them() {
    let question = [Message::user().text("hello")];
    let ids = |omni: &Omni| omni.prompt(&question, &GenerateOptions::default()).unwrap().ids().to_vec();
    let whole = ids(&Omni::builder(testkit::tiny()).load().unwrap());
    let without = || tiny_with("tokenizer_config.json", |json| json["added_tokens_decoder"] = json!({}));
    let directory = without();
    testkit::edit_json(&directory.path().join("added_tokens.json"), |json| *json = added_tokens());
    assert_eq!(ids(&load(&directory)), whole);
    // Beside a tokenizer.json that lacks them.
    for file in ["tokenizer_config.json", "added_tokens.json"] {
        let directory = if file == "added_tokens.json" { without() } else { testkit::copy_of(&testkit::tiny()) };
        std::fs::copy(testkit::tiny().join("alt/tokenizer.json"), directory.path().join("tokenizer.json")).unwrap();
        testkit::edit_json(&directory.path().join("tokenizer.json"), |json| json["added_tokens"] = json!([]));
        if file == "added_tokens.json" {
            testkit::edit_json(&directory.path().join(file), |json| *json = added_tokens());
        }
        assert_eq!(ids(&load(&directory)), whole, "{file}");
    }
    // Nowhere: the text of a special token would be letters.
    let message = refusal(&without());
    for part in ["im_start_token_id", "957", "<|im_start|>"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_id_of_the_config_that_is_another_text_is_refused_with_both() {
    for (section, key, id, text) in [
        ("/thinker_config", "audio_token_id", 967, "<|audio_pad|>"),
        ("", "tts_eos_token_id", 985, "<tts_text_eod>"),
        ("", "user_token_id", 270, "user"),
    ] {
        let directory = tiny_with("config.json", |json| json.pointer_mut(section).unwrap()[key] = json!(id));
        let message = refusal(&directory);
        for part in [key, &id.to_string(), text] {
            assert!(message.contains(part), "`{part}`: {message}");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_end_in_an_error_that_names_the_stage() {
    let stages = [
        ("thinker.model.layers.0.mlp.experts.0.down_proj.weight", "thinker", "hello"),
        ("talker.model.layers.0.self_attn.o_proj.weight", "talker", "hello"),
        ("talker.code_predictor.lm_head.1.weight", "code predictor", "hello"),
        ("code2wav.pre_transformer.norm.weight", "vocoder", "hello"),
        ("thinker.visual.merger.ln_q.weight", "vision encoder", "picture"),
        ("thinker.audio_tower.ln_post.weight", "audio encoder", "sound"),
    ];
    for (tensor, stage, question) in stages {
        let directory = testkit::copy_of(&testkit::tiny());
        let not_a_number = |name: &str, data: &mut Vec<u8>| {
            if name == tensor {
                // 0x7fc0 repeated is not a number in bf16, and 0x7fc07fc0 none in f32.
                data.as_chunks_mut().0.iter_mut().for_each(|value| *value = [0xc0, 0x7f]);
            }
            true
        };
        rewrite(&directory, not_a_number, &[]);
        let message = match question {
            "picture" => Message::user().image(Pixels::new(64, 64, vec![90; 64 * 64 * 3]).unwrap()),
            "sound" => Message::user().audio(qwen3_omni::AudioInput::samples(vec![0.1; 8000], 16_000, 1)),
            text => Message::user().text(text),
        };
        let options = GenerateOptions::default().max_new_tokens(6).max_codes(9);
        let error = load(&directory).generate(&[message], &options).unwrap_err();
        assert!(matches!(error, Error::NotFinite { stage: found } if found == stage), "{stage}: {error}");
    }
}

#[test]
fn scaled_rotation_is_refused_under_either_key() {
    for key in ["type", "rope_type"] {
        let directory = tiny_with("config.json", |json| {
            json["thinker_config"]["text_config"]["rope_scaling"] = json!({key: "yarn", "factor": 4.0, "original_max_position_embeddings": 16384, "mrope_section": [6, 5, 5]});
        });
        let message = refusal(&directory);
        assert!(message.contains("yarn") && message.contains("thinker_config.text_config"), "{message}");
    }
}

#[test]
fn bounds_of_pictures_are_read_from_every_file_and_key_that_has_them() {
    // 512 × 512 pixels within 65,536 are 256 × 256: 64 tokens of 32 × 32 pixels.
    let size = json!({"shortest_edge": 3136, "longest_edge": 65536});
    let tokens = |directory: &TempDir| {
        let picture = Pixels::new(512, 512, vec![128; 512 * 512 * 3]).unwrap();
        let prompt = load(directory).prompt(&[Message::user().image(picture)], &GenerateOptions::default()).unwrap();
        prompt.parts()[0].tokens
    };
    let patches = |tokens: usize| tokens; // the small checkpoint's patches have 16 × 16 pixels and are merged two by two
    let keys = |json: &mut Value| {
        let json = json.as_object_mut().unwrap();
        json.remove("min_pixels");
        json.remove("max_pixels");
    };
    let directory = tiny_with("preprocessor_config.json", |json| {
        keys(json);
        json["size"] = size.clone();
    });
    assert_eq!(tokens(&directory), patches(64));
    let directory = tiny_with("processor_config.json", |json| json["image_processor"] = json!({"size": size}));
    assert_eq!(tokens(&directory), patches(64));
    let directory = tiny_with("preprocessor_config.json", |json| {
        *json = json!({"min_pixels": null, "max_pixels": null, "size": size});
    });
    assert_eq!(tokens(&directory), patches(64));
}

#[test]
fn null_stands_for_an_absent_key_and_two_names_of_one_key_may_stand_together() {
    let directory = tiny_with("config.json", |json| {
        json["torch_dtype"] = json!("bfloat16");
        json["dtype"] = json!("bfloat16");
        json["thinker_config"]["text_config"]["mlp_only_layers"] = Value::Null;
        json["thinker_config"]["text_config"]["shared_expert_intermediate_size"] = Value::Null;
        json["thinker_config"]["position_id_per_seconds"] = Value::Null;
    });
    testkit::edit_json(&directory.path().join("generation_config.json"), |json| {
        json["talker_temperature"] = Value::Null;
        json["eos_token_id"] = Value::Null;
    });
    let omni = load(&directory);
    let config = OmniCheckpoint::open(directory.path()).unwrap();
    assert_eq!(config.config().top.dtype.as_deref(), Some("bfloat16"));
    omni.generate(&[Message::user().text("hello")], &GenerateOptions::default().max_new_tokens(2).text_only()).unwrap();
}

#[test]
fn a_checkpoint_that_does_not_speak_may_keep_defaults_for_the_parts_it_lacks() {
    let directory = tiny_with("config.json", |json| {
        json["enable_audio_output"] = json!(false);
        json["talker_config"] =
            json!({"accept_hidden_layer": 18, "speaker_id": null, "text_config": {"num_experts": 128}});
        json["code2wav_config"] = json!({"codebook_size": 2048});
    });
    rewrite(&directory, |name, _| !name.starts_with("talker.") && !name.starts_with("code2wav."), &[]);
    let reply =
        load(&directory).generate(&[Message::user().text("hello")], &GenerateOptions::default().max_new_tokens(2));
    assert!(reply.unwrap().speech.is_none());
}

#[test]
fn tensors_that_nothing_reads_are_left_alone_but_missing_ones_are_not() {
    let directory = testkit::copy_of(&testkit::tiny());
    rewrite(&directory, |_, _| true, &[("thinker.model.rotary_emb.inv_freq", 16)]);
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    assert!(checkpoint.report(&Component::ALL).unused().contains("thinker.model.rotary_emb.inv_freq"));
    load(&directory);
    // Experts under another name match nothing.
    let directory = testkit::copy_of(&testkit::tiny());
    rewrite(
        &directory,
        |name, _| !name.contains("layers.1.mlp.experts.2."),
        &[("thinker.model.layers.1.mlp.expert.2", 4)],
    );
    let message = refusal(&directory);
    for part in [
        "missing    thinker.model.layers.1.mlp.experts.2.down_proj.weight",
        "unexpected thinker.model.layers.1.mlp.expert.2",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_template_named_default_is_taken_from_a_list() {
    let template = |name: &str, text: &str| json!({"name": name, "template": text});
    let directory = tiny_with("tokenizer_config.json", |json| {
        let list = [
            template("rag", "{{ raise_exception('not this') }}"),
            template("default", "{{ eos_token }}<|im_start|>assistant\n"),
        ];
        json["chat_template"] = json!(list);
    });
    std::fs::remove_file(directory.path().join("chat_template.json")).unwrap();
    let prompt =
        load(&directory).prompt(&[Message::user().text("hello")], &GenerateOptions::default().text_only()).unwrap();
    assert_eq!(prompt.ids()[..2], [958, 957]);
}

#[test]
fn counts_beyond_the_tensors_that_are_there_are_refused_before_anything_is_built() {
    for (section, key) in [
        ("/thinker_config/text_config", "num_hidden_layers"),
        ("/thinker_config/text_config", "num_experts"),
        ("/thinker_config/audio_config", "encoder_layers"),
        ("/thinker_config/vision_config", "depth"),
        ("/talker_config", "num_code_groups"),
        ("/talker_config/text_config", "num_hidden_layers"),
        ("/talker_config/code_predictor_config", "num_hidden_layers"),
        ("/code2wav_config", "num_hidden_layers"),
        ("/code2wav_config", "num_quantizers"),
    ] {
        for count in [4000u64, 1_000_000, u64::from(u32::MAX) * 4] {
            let directory = tiny_with("config.json", |json| json.pointer_mut(section).unwrap()[key] = json!(count));
            let message = refusal(&directory);
            // A few thousand are within the bounds, so their tensors are listed as missing.
            let listed = count == 4000 && (message.contains("missing ") || message.contains("mismatched "));
            let refused = message.contains(key) || message.contains("asks for more than");
            assert!(refused || listed, "{key} {count}: {}", &message[..message.len().min(300)]);
        }
    }
}

#[test]
fn values_without_sense_are_refused_by_name() {
    for (section, key, value) in [
        ("/thinker_config/text_config", "rope_theta", json!(0.0)),
        ("/thinker_config/text_config", "rope_theta", json!(-1e6)),
        ("/talker_config/text_config", "rms_norm_eps", json!(-1e-6)),
        ("/code2wav_config", "rms_norm_eps", json!(-1.0)),
        ("/talker_config/code_predictor_config", "rms_norm_eps", json!(-1.0)),
        ("/thinker_config", "position_id_per_seconds", json!(0)),
        ("/thinker_config", "position_id_per_seconds", json!(-13)),
        ("/thinker_config/audio_config", "n_window_infer", json!(0)),
        ("/thinker_config", "image_token_id", json!(969)),
        ("/thinker_config/text_config", "head_dim", json!(1u64 << 40)),
        ("/thinker_config/text_config", "attention_bias", json!(true)),
        ("/thinker_config/text_config", "hidden_act", json!("relu")),
        ("/code2wav_config", "upsample_rates", json!([1_000_000_000, 1_000_000_000, 1_000_000_000])),
    ] {
        let directory = tiny_with("config.json", |json| json.pointer_mut(section).unwrap()[key] = value.clone());
        let message = refusal(&directory);
        let word = if key == "hidden_act" { "relu" } else { key };
        assert!(message.contains(word) && message.contains("config.json"), "{key} {value}: {message}");
    }
}

#[test]
fn the_index_names_files_of_the_directory_only() {
    for outside in ["/etc/passwd", "../secret.safetensors", "a/../../b", "", "."] {
        let directory = tiny_with("model.safetensors.index.json", |json| {
            json["weight_map"]["thinker.lm_head.weight"] = json!(outside);
        });
        let message = refusal(&directory);
        for part in ["model.safetensors.index.json", "thinker.lm_head.weight", "no file of this directory"] {
            assert!(message.contains(part), "{outside}: {message}");
        }
    }
}

#[test]
fn a_git_lfs_pointer_is_named_as_that() {
    let directory = testkit::copy_of(&testkit::tiny());
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4999\n";
    std::fs::write(directory.path().join("model-00002-of-00003.safetensors"), pointer).unwrap();
    let message = refusal(&directory);
    assert!(message.contains("model-00002-of-00003.safetensors") && message.contains("Git LFS pointer"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_config_and_links_are_followed() {
    for file in ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json"] {
        let directory = testkit::copy_of(&testkit::tiny());
        let path = directory.path().join(file);
        std::fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let message = refusal(&directory);
        assert!(message.contains(file) && message.contains("no regular file"), "{message}");
    }
    // The hub's cache consists of links out of the directory.
    let (cache, directory) = (testkit::copy_of(&testkit::tiny()), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(cache.path()).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    load(&directory);
}
