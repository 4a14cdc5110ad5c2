//! What is refused, and what each refusal says.

use std::path::Path;

use crate::golden::{Golden, fixtures, load, places};
use qwen3_omni_mimi_encoder::{Checkpoint, Error, MimiEncoder, MimiRun, Result};
use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize_to_file};
use testkit::{copy_of, edit_json};

fn open(directory: &Path) -> Result<MimiEncoder> {
    MimiEncoder::from_checkpoint(&Checkpoint::open(directory)?, &places()[0])
}

/// The error of a checkpoint whose config has another value.
fn refused(key: &str, value: serde_json::Value) -> String {
    let directory = copy_of(&fixtures().join("tiny"));
    edit_json(&directory.path().join("config.json"), |config| config[key] = value);
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn wrong_configs_are_refused_by_name() {
    let cases: Vec<(&str, serde_json::Value)> = vec![
        ("model_type", "encodec".into()),
        ("audio_channels", 2.into()),
        ("use_causal_conv", false.into()),
        ("pad_mode", "reflect".into()),
        ("hidden_act", "relu".into()),
        ("attention_bias", true.into()),
        ("hidden_size", 0.into()),
        ("num_filters", (1u64 << 40).into()),
        ("compress", 5.into()),
        ("kernel_size", 0.into()),
        ("upsampling_ratios", vec![4, 0].into()),
        ("upsampling_ratios", Vec::<u32>::new().into()),
        ("upsampling_ratios", vec![4000, 4000].into()),
        ("upsampling_ratios", vec![2; 60].into()),
        ("num_semantic_quantizers", 6.into()),
        ("num_semantic_quantizers", 0.into()),
        ("vector_quantization_hidden_dimension", 8.into()),
        ("num_key_value_heads", 3.into()),
        ("num_attention_heads", 5.into()),
        ("head_dim", 7.into()),
        ("frame_rate", 100.0.into()),
        ("frame_rate", 0.0.into()),
        ("sliding_window", 0.into()),
        ("norm_eps", (-1.0).into()),
        ("codebook_size", "many".into()),
    ];
    for (key, value) in cases {
        let error = refused(key, value.clone());
        let said = if value == serde_json::json!(vec![2; 60]) { "num_filters" } else { key };
        let said = if key == "hidden_act" { "activation function" } else { said };
        let said = if key == "num_attention_heads" { "5 heads" } else { said };
        let said = if key == "num_key_value_heads" { "3 key/value heads" } else { said };
        assert!(error.contains(said) && error.contains("config.json"), "{key} = {value}: {error}");
    }
    let dilation = refused("dilation_growth_rate", serde_json::Value::Null);
    assert!(dilation.contains("missing field `dilation_growth_rate`"), "{dilation}");
}

#[test]
fn a_dilation_that_fits_no_memory_is_refused() {
    let directory = copy_of(&fixtures().join("variant"));
    edit_json(&directory.path().join("config.json"), |config| config["dilation_growth_rate"] = 4096.into());
    edit_json(&directory.path().join("config.json"), |config| config["num_residual_layers"] = 3.into());
    let error = open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("dilation_growth_rate"), "{error}");
}

#[test]
fn both_names_of_the_frame_rate_are_read() {
    for key in ["frame_rate", "_frame_rate"] {
        let directory = copy_of(&fixtures().join("tiny"));
        edit_json(&directory.path().join("config.json"), |config| config[key] = 50.0.into());
        assert_eq!(open(directory.path()).unwrap().samples_per_frame(), 48);
        // The convolution of the checkpoint halves the rate; a quarter of it asks for another kernel.
        edit_json(&directory.path().join("config.json"), |config| config[key] = 25.0.into());
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("downsample.conv.weight"), "{error}");
    }
}

/// Writes the checkpoint anew, each tensor changed by `change` or left out.
fn rewritten(change: impl Fn(&str, &mut Vec<u8>) -> bool) -> tempfile::TempDir {
    let directory = copy_of(&fixtures().join("tiny"));
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.tensors().into_iter().filter_map(|(name, view)| {
        let mut data = view.data().to_vec();
        change(&name, &mut data).then(|| (name, view.dtype(), view.shape().to_vec(), data))
    });
    let kept: Vec<_> = kept.collect();
    let views = kept
        .iter()
        .map(|(name, dtype, shape, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
    directory
}

#[test]
fn what_is_missing_or_cut_off_is_named() {
    let lost = "quantizer.acoustic_residual_vector_quantizer.layers.2.codebook.cluster_usage";
    let error = open(rewritten(|name, _| name != lost).path()).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }) && error.to_string().contains(lost), "{error}");

    let directory = copy_of(&fixtures().join("tiny"));
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 5, 1000, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("truncated"), "{length}: {error}");
    }
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let error = open(&testkit::tiny()).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
}

#[test]
fn damaged_weights_give_an_error_and_no_codes() {
    let damage = |name: &str, data: &mut Vec<u8>| {
        if name == "downsample.conv.weight" {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        true
    };
    let directory = rewritten(damage);
    for place in places() {
        let encoder = MimiEncoder::from_checkpoint(&Checkpoint::open(directory.path()).unwrap(), &place).unwrap();
        assert!(matches!(encoder.encode(&[0.1; 100]), Err(Error::NotFinite { .. })));
    }
}

#[test]
fn samples_that_are_none_are_refused_and_leave_the_stream_as_it_was() {
    let golden = Golden::open("tiny", "remainder");
    let samples = golden.samples();
    for place in places() {
        let encoder = load("tiny", &place);
        let [mut state, mut other] = [encoder.start(), encoder.start()];
        let mut frames = encoder.encode_step(&mut state, &samples[..70]).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bad = [0.0, bad];
            let runs = vec![
                MimiRun { state: &mut state, samples: &bad, last: true },
                MimiRun { state: &mut other, samples: &samples, last: true },
            ];
            let [refused, beside] = encoder.forward(runs).try_into().unwrap();
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Media { .. }) && error.to_string().contains("sample 2"), "{error}");
            assert_eq!(beside.unwrap(), golden.codes());
        }
        frames.extend(encoder.encode_step(&mut state, &samples[70..]).unwrap());
        frames.extend(encoder.finish(&mut state).unwrap());
        assert_eq!(frames, golden.codes());
    }
}

#[test]
fn codebooks_that_are_not_there_are_refused() {
    let with = |model, codebooks| load(model, &places()[0]).with_codebooks(codebooks);
    for (model, codebooks) in [("tiny", 0), ("tiny", 7), ("variant", 1), ("variant", 6)] {
        let error = with(model, codebooks).unwrap_err();
        assert!(matches!(error, Error::Request(_)), "{error}");
        assert!(error.to_string().contains(&format!("{codebooks} codebooks")), "{error}");
    }
    assert_eq!(with("tiny", 1).unwrap().codebooks(), 1);
}
