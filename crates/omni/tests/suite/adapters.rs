//! Adapters that PEFT has made are merged as PEFT merges them, on both engines, in every number type, and answer alike however they are
//! merged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use omni_core::{PlaceKind, Positions};
use qwen3_omni::checkpoint::{Checkpoint, Weights};
use qwen3_omni::thinker::{Thinker, ThinkerInput, ThinkerRun};
use qwen3_omni::{
    Component, Dtype, Error, GenerateOptions, Guards, Message, Omni, OmniBuilder, OmniCheckpoint, Place, Reply,
};
use safetensors::SafeTensors;
use testkit::distance;
use weights_tools::convert::{Options, convert};
use weights_tools::quantize::{self, Plan, quantize};

const CASES: [&str; 3] = ["thinker", "talker", "experts"];

fn adapter(case: &str) -> PathBuf {
    testkit::adapters().join(case)
}

fn with(directory: &Path, cases: &[&str]) -> OmniCheckpoint {
    let mut checkpoint = OmniCheckpoint::open(directory).unwrap();
    cases.iter().for_each(|case| checkpoint.add_adapter(adapter(case)).unwrap());
    checkpoint
}

/// What PEFT has computed.
fn expected(case: &str) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(adapter(case).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn contents(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    checkpoint.contents(name).unwrap().into_owned()
}

/// Writes the small checkpoint with adapters merged.
fn merged(source: &Path, cases: &[&str], dtype: Option<Dtype>) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let adapters = cases.iter().map(|case| adapter(case)).collect();
    let (source, directory) = (source.to_owned(), out.path().to_owned());
    let options =
        Options { source, adapters, out: directory, dtype, dequantize: false, shard_bytes: 1_000_000, restart: false };
    convert(&options, |_| Ok(())).unwrap();
    out
}

#[test]
fn every_tensor_is_what_peft_merges_and_no_other_changes() {
    for case in CASES {
        let (checkpoint, mut expected) = (with(&testkit::tiny(), &[case]), expected(case));
        expected.retain(|name, _| !["input_ids", "logits"].contains(&name.as_str()));
        assert!(expected.len() > 4, "{case}");
        for (name, tensor) in checkpoint.tensors() {
            let bytes = checkpoint.contents(name).unwrap();
            let Some(probe) = expected.remove(name) else {
                assert!(bytes == checkpoint.bytes(tensor), "{case}: {name} has changed");
                continue;
            };
            let values = floats(&bytes);
            let rows = values.chunks_exact(values.len() / tensor.shape[0]);
            let probed =
                rows.map(|row| row.iter().zip(0..).map(|(x, at)| f64::from(*x) * f64::from(at).cos()).sum::<f64>());
            let error = distance(&floats(&probe), &probed.map(|x| x as f32).collect::<Vec<_>>()).1;
            assert!(error < 1e-6, "{case}: {name}: {error}");
        }
        assert!(expected.is_empty(), "{case}: {expected:?}");
    }
}

#[test]
fn logits_are_those_of_peft_on_both_engines() {
    let expected = expected("thinker");
    let ids: Vec<u32> =
        expected["input_ids"].as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect();
    let logits = |checkpoint: &OmniCheckpoint, place: &Place| {
        let thinker = Thinker::load(&Weights::new(checkpoint, place, Dtype::F32), &checkpoint.config().thinker, None);
        let thinker = thinker.unwrap();
        let input = ThinkerInput::text(thinker.embed(&ids), Positions::sequence(0.0, ids.len()));
        let mut state = thinker.start();
        thinker.forward(vec![ThinkerRun::new(&mut state, &input)]).remove(0).unwrap().logits.to_vec()
    };
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        let error = distance(&floats(&expected["logits"]), &logits(&with(&testkit::tiny(), &["thinker"]), &place)).1;
        assert!(error < 1e-4, "{place:?}: {error}");
        let without = distance(&floats(&expected["logits"]), &logits(&with(&testkit::tiny(), &[]), &place)).1;
        assert!(without > 0.1, "{place:?}: the adapter changes little: {without}");
    }
}

#[test]
fn the_sum_is_rounded_once_to_the_number_type_on_disk() {
    let half = merged(&testkit::tiny(), &[], Some(Dtype::Bf16));
    // The same values, which f32 holds exactly, and their sums, which are rounded behind.
    let single = merged(half.path(), &[], Some(Dtype::F32));
    let single = merged(single.path(), &CASES, Some(Dtype::Bf16));
    let (half, expected) = (with(half.path(), &CASES), with(single.path(), &[]));
    let mut changed = 0;
    for (name, tensor) in half.tensors() {
        let found = contents(&half, name);
        assert!(found == contents(&expected, name), "{name}");
        changed += usize::from(found != half.bytes(tensor));
    }
    assert_eq!(changed, 40 + 9 + 5);
}

#[test]
fn models_read_what_is_merged_whatever_the_number_type_and_the_engine() {
    let name = "thinker.model.layers.0.self_attn.q_proj";
    for stored in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let directory = merged(&testkit::tiny(), &[], Some(stored));
        let checkpoint = with(directory.path(), &["thinker"]);
        let expected = Checkpoint::open(merged(directory.path(), &["thinker"], Some(Dtype::F32)).path()).unwrap();
        let expected = floats(&contents(&expected, &format!("{name}.weight")));
        for asked in [Dtype::F32, Dtype::Bf16] {
            let host =
                Weights::new(&checkpoint, &Place::Host(Device::flex()), asked).at(name).matrix([128, 64]).unwrap();
            let mut values = vec![0.0; expected.len()];
            values.chunks_exact_mut(64).enumerate().for_each(|(row, values)| host.weight().read(row, 64, 0, values));
            let weights = Weights::new(&checkpoint, &Place::Device(Device::flex()), asked).at(name);
            let device = weights.tensor::<2>("weight", [128, 64]).unwrap();
            // What is computed in bf16 may be rounded to it.
            let exact = asked == Dtype::F32 || stored == Dtype::Bf16;
            let most = if exact { 0.0 } else { 1.0 / 256.0 };
            for (engine, values) in [("host", values), ("device", nn::to_f32_vec(&device))] {
                let error = distance(&expected, &values).1;
                assert!(error <= most, "{stored} as {asked} on the {engine}: {error}");
            }
            assert!(host.bytes_in_memory() >= 128 * 64 * 2, "it lies in a file, without the adapter");
        }
    }
}

#[test]
fn the_memory_estimate_counts_what_is_changed_as_held() {
    let (plain, changed) = (with(&testkit::tiny(), &[]), with(&testkit::tiny(), &["thinker", "experts"]));
    let matrix = |name: &str| {
        let shape = &changed.tensors()[name].shape;
        if shape.len() == 2 { 4 * shape.iter().product::<usize>() as u64 } else { 0 }
    };
    let names = expected("thinker").into_keys().chain(expected("experts").into_keys());
    let of_thinker = names.filter(|name| Component::of(name) == Some(Component::Thinker));
    let bytes: u64 = of_thinker.map(|name| matrix(&name)).sum();
    assert!(bytes > 100_000);
    let estimate =
        |checkpoint: &OmniCheckpoint, place| checkpoint.memory_estimate(&[Component::Thinker], place, Dtype::F32);
    let [before, after] = [&plain, &changed].map(|checkpoint| estimate(checkpoint, PlaceKind::Host));
    assert_eq!((after.resident - before.resident, before.mapped - after.mapped), (bytes, bytes));
    let [before, after] = [&plain, &changed].map(|checkpoint| estimate(checkpoint, PlaceKind::Device));
    assert_eq!(before, after);
    let loaded =
        |builder: OmniBuilder| builder.text_only().without_media().dtype(Dtype::F32).memory_estimate().unwrap();
    let both = Omni::builder(testkit::tiny()).adapter(adapter("thinker")).adapter(adapter("experts"));
    assert_eq!(loaded(both).resident - loaded(Omni::builder(testkit::tiny())).resident, bytes);
}

fn reply(builder: OmniBuilder) -> Reply {
    // Random weights do not end by themselves.
    let options = GenerateOptions::default().greedy().max_new_tokens(8).max_codes(9).guards(Guards::off());
    let device = testkit::device_name().parse().unwrap();
    builder.device(device).load().unwrap().generate(&[Message::user().text("hello")], &options).unwrap()
}

#[test]
fn a_merged_checkpoint_and_adapters_that_are_loaded_answer_alike() {
    let of = |reply: Reply| {
        let speech = reply.speech.unwrap();
        (reply.text, speech.codes, speech.audio.samples)
    };
    let bf16 = merged(&testkit::tiny(), &[], Some(Dtype::Bf16));
    for source in [testkit::tiny(), bf16.path().to_owned()] {
        let merged = merged(&source, &CASES, None);
        let loaded = CASES.iter().fold(Omni::builder(&source), |builder, case| builder.adapter(adapter(case)));
        let (loaded, merged, plain) =
            (of(reply(loaded)), of(reply(Omni::builder(merged.path()))), of(reply(Omni::builder(&source))));
        assert!(loaded == merged, "{:?} and {:?}", (&loaded.0, &loaded.1), (&merged.0, &merged.1));
        assert!(loaded.0 != plain.0 && loaded.1 != plain.1);
    }
}

#[test]
fn an_adapter_of_a_part_that_is_not_loaded_changes_nothing() {
    let text = |builder: OmniBuilder| reply(builder.text_only()).text;
    assert_eq!(text(Omni::builder(testkit::tiny()).adapter(adapter("talker"))), text(Omni::builder(testkit::tiny())));
}

#[test]
fn quantised_layers_and_random_weights_take_no_adapter() {
    let out = tempfile::tempdir().unwrap();
    let plan = Plan { bits: Some(8), only: vec![Component::Thinker], ..Plan::default() };
    let (source, directory, shard_bytes) = (testkit::tiny(), out.path().to_owned(), 1_000_000);
    let options = quantize::Options { source, out: directory, plan, dtype: Dtype::Bf16, shard_bytes, restart: false };
    quantize(&options, |_| Ok(())).unwrap();
    for case in ["thinker", "experts"] {
        let error = Omni::builder(out.path()).adapter(adapter(case)).load().err().unwrap();
        let message = error.to_string();
        assert!(matches!(error, Error::Weights { .. }), "{message}");
        for part in [case, "adapter_model.safetensors", "lora_A", "quantised", "weights-tools merge"] {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
    // What is not quantised does.
    Omni::builder(out.path()).adapter(adapter("talker")).load().unwrap();
    let random = Omni::builder(testkit::tiny()).random_weights(1).adapter(adapter("thinker")).load();
    assert!(matches!(random, Err(Error::Request(message)) if message.contains("random")));
}
