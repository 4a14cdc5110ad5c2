//! `quantize` writes directories that are whole, resumable and as exact as it says; `convert` undoes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::packed::{Groups, dequantize};
use checkpoint::{Dtype, Expected, UNFINISHED};
use omni_core::{Error, Result};
use qwen3_omni::{Component, OmniCheckpoint};
use qwen3_omni_weights_tools::Progress;
use qwen3_omni_weights_tools::convert::{self, convert};
use qwen3_omni_weights_tools::init::{self, init};
use qwen3_omni_weights_tools::inspect::{Expect, inspect};
use qwen3_omni_weights_tools::quantize::{Grouping, Options, Plan, Recipe, Report, quantize};

const SHARD: u64 = 400_000;

fn plan(recipe: Recipe) -> Plan {
    Plan { recipe: Some(recipe), ..Plan::default() }
}

fn options(out: &Path, plan: Plan) -> Options {
    let source = testkit::tiny();
    Options { source, out: out.to_owned(), plan, dtype: Dtype::Bf16, shard_bytes: SHARD, restart: false }
}

fn quantized(plan: Plan) -> (tempfile::TempDir, Report) {
    let directory = tempfile::tempdir().unwrap();
    let report = quantize(&options(directory.path(), plan), |_| Ok(())).unwrap();
    (directory, report)
}

fn converted(source: &Path, dtype: Option<Dtype>, dequantize: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (source.to_owned(), directory.path().to_owned());
    convert(
        &convert::Options { source, out, adapters: vec![], dtype, dequantize, shard_bytes: SHARD, restart: false },
        |_| Ok(()),
    )
    .unwrap();
    directory
}

/// Fails after this many bytes, as if somebody had stopped the program.
fn stop_after(bytes: u64) -> impl FnMut(Progress) -> Result<()> {
    move |progress| if progress.bytes > bytes { Err(Error::Request("stopped".into())) } else { Ok(()) }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn shard(directory: &Path, index: usize) -> PathBuf {
    let begins = |path: &PathBuf| path.to_string_lossy().contains(&format!("model-{index:05}-of-"));
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(begins).find(|path| path.extension().is_some_and(|e| e == "safetensors")).unwrap()
}

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn floats(checkpoint: &OmniCheckpoint, name: &str) -> Vec<f32> {
    let tensor = &checkpoint.tensors()[name];
    let bytes = checkpoint.bytes(tensor);
    match tensor.float_type().unwrap() {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::Bf16 => bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
    }
}

/// The values of a packed layer.
fn unpacked(checkpoint: &OmniCheckpoint, module: &str, shape: [usize; 2]) -> Vec<f32> {
    let packed = checkpoint.packed(module, shape).unwrap().unwrap();
    let words: Vec<i32> =
        checkpoint.bytes(packed.words).as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
    let scales = floats(checkpoint, &format!("{module}.weight_scale"));
    dequantize(&words, shape, packed.bits, Groups::Consecutive(packed.group), (&scales, packed.zeros.as_deref()))
}

#[test]
fn every_recipe_gives_a_whole_checkpoint_with_the_errors_it_reports() {
    let source = OmniCheckpoint::open(testkit::tiny()).unwrap();
    for (recipe, matrices) in [(Recipe::Gb24, 281), (Recipe::Gb48, 238), (Recipe::Gb80, 97)] {
        let (directory, report) = quantized(plan(recipe));
        let made = OmniCheckpoint::open(directory.path()).unwrap();
        made.check(&Component::ALL).unwrap();
        assert!(made.shards() > 1);
        assert_eq!(report.tensors.len(), matrices, "{recipe}");
        for error in &report.tensors {
            let name = format!("{}.weight", error.module);
            let shape = [source.tensors()[&name].shape[0], source.tensors()[&name].shape[1]];
            let (before, after) = (floats(&source, &name), unpacked(&made, &error.module, shape));
            let largest = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert_eq!(error.max_abs, largest, "{name}");
            let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>();
            let errors = sum(&mut before.iter().zip(&after).map(|(a, b)| a - b));
            let relative = (errors / sum(&mut before.iter().copied())).sqrt();
            assert!((error.relative_rms / relative - 1.0).abs() < 1e-4, "{name}: {relative}");
            assert!(relative < if error.scheme.starts_with("int4") { 0.2 } else { 0.02 }, "{name}: {relative}");
        }
        let plain = |name: &str, expected: &Expected| !expected.is_linear() || name.ends_with(".mlp.gate.weight");
        for (name, expected) in source.manifest().iter().filter(|(name, expected)| plain(name, expected)) {
            assert_eq!(made.tensors()[name].float_type(), Some(Dtype::Bf16), "{name} {:?}", expected.shape);
        }
    }
}

#[test]
fn companions_are_copied_the_config_says_how_and_data_is_aligned() {
    let (directory, _) = quantized(plan(Recipe::Gb24));
    for file in ["vocab.json", "merges.txt", "chat_template.json", "generation_config.json"] {
        let [from, to] = [testkit::tiny(), directory.path().to_owned()].map(|d| std::fs::read(d.join(file)).unwrap());
        assert_eq!(from, to, "{file}");
    }
    assert!(!directory.path().join(UNFINISHED).exists());
    let found = inspect(directory.path(), Expect::Config).unwrap();
    assert_eq!(found.odd, [""; 0]);
    assert_eq!(found.components.iter().map(|c| c.parameters).sum::<u64>(), 1_454_429);
    assert_eq!(found.config_dtype.as_deref(), Some("bfloat16"));
    let packed: Vec<&String> = found.components.iter().flat_map(|part| part.packed.keys()).collect();
    assert!(packed.contains(&&"int4 group 32".to_owned()) && packed.contains(&&"int8 per channel".to_owned()));
    for (name, bytes) in files(directory.path()).into_iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!((8 + header) % 64, 0, "{name}");
        for (tensor, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            assert!((end - start) % 64 != 0 || start % 64 == 0, "{tensor} of {} bytes begins at {start}", end - start);
        }
    }
}

#[test]
fn other_schemes_and_choices() {
    let only = vec![Component::Thinker];
    let ignore = vec![r"re:.*layers\.0\.".to_owned(), "thinker.lm_head".to_owned()];
    let plan = Plan { bits: Some(4), asymmetric: true, only, ignore, ..Plan::default() };
    let (directory, report) = quantized(plan);
    let made = OmniCheckpoint::open(directory.path()).unwrap();
    made.check(&Component::ALL).unwrap();
    assert!(report.tensors.iter().all(|error| error.module.starts_with("thinker.model.layers.")));
    assert!(report.tensors.iter().all(|error| error.scheme == "int4 group 32 with zero points"));
    let has = |name: &str| made.tensors().contains_key(name);
    assert!(has("thinker.model.layers.0.self_attn.q_proj.weight") && has("thinker.lm_head.weight"));
    assert!(has("thinker.model.layers.1.self_attn.q_proj.weight_zero_point"));
    let config = made.quantization().unwrap();
    assert_eq!(config.scheme_of("thinker.model.layers.0.self_attn.q_proj"), None);
    assert!(config.scheme_of("thinker.model.layers.1.self_attn.q_proj").is_some());

    let plan = Plan { bits: Some(8), group: Some(Grouping::Channel), ..Plan::default() };
    let (_, report) = quantized(plan);
    assert!(report.tensors.iter().all(|error| error.scheme == "int8 per channel"));
}

#[test]
fn a_stopped_job_is_refused_and_resumed_to_the_same_bytes() {
    let (whole, report) = quantized(plan(Recipe::Gb24));
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), plan(Recipe::Gb24));
    for bytes in [100_000, SHARD + 100_000, 2 * SHARD + 300_000] {
        let message = quantize(&options, stop_after(bytes)).unwrap_err().to_string();
        assert_names(&message, &["stopped"]);
        let message = OmniCheckpoint::open(directory.path()).unwrap_err().to_string();
        assert_names(&message, &["half-written", "resume", "--restart"]);
    }
    // Shards that are whole are not written again.
    let first = shard(directory.path(), 1);
    let written = std::fs::metadata(&first).unwrap().modified().unwrap();
    let resumed = quantize(&options, |_| Ok(())).unwrap();
    assert_eq!(std::fs::metadata(&first).unwrap().modified().unwrap(), written);
    assert!(files(directory.path()) == files(whole.path()));
    assert_eq!(resumed.tensors.len(), report.tensors.len());
    for (a, b) in resumed.tensors.iter().zip(&report.tensors) {
        // Some went through the notes, as decimals.
        let same = (a.relative_rms - b.relative_rms).abs() < 1e-12 && (a.max_abs - b.max_abs).abs() < 1e-9;
        assert!(a.module == b.module && a.scheme == b.scheme && same, "{a:?} {b:?}");
    }
}

#[test]
fn a_finished_shard_that_was_damaged_since_is_written_again() {
    let (whole, _) = quantized(plan(Recipe::Gb24));
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path(), plan(Recipe::Gb24));
    quantize(&options, stop_after(2 * SHARD + 300_000)).unwrap_err();
    let [first, second] = [1, 2].map(|index| shard(directory.path(), index));
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..bytes.len() - 7]).unwrap();
    let bytes = std::fs::read(&second).unwrap();
    std::fs::write(&second, [&b"nonsense"[..], &bytes[8..]].concat()).unwrap();
    quantize(&options, |_| Ok(())).unwrap();
    assert!(files(directory.path()) == files(whole.path()));
}

#[test]
fn another_command_does_not_resume_but_may_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = options(directory.path(), plan(Recipe::Gb24));
    quantize(&first, stop_after(SHARD + 100_000)).unwrap_err();
    let other = Options { dtype: Dtype::F16, ..options(directory.path(), plan(Recipe::Gb48)) };
    let message = quantize(&other, |_| Ok(())).unwrap_err().to_string();
    let names = ["`recipe` was \"24gb\" and is \"48gb\"", "`dtype` was \"bf16\" and is \"f16\"", "--restart"];
    assert_names(&message, &names);
    // Another source of the same options is another job too.
    let copy = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let elsewhere = Options { source: copy.path().to_owned(), ..first.clone() };
    assert_names(&quantize(&elsewhere, |_| Ok(())).unwrap_err().to_string(), &["`source` was"]);
    quantize(&Options { restart: true, ..other }, |_| Ok(())).unwrap();
    let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
    checkpoint.check(&Component::ALL).unwrap();
    // A whole checkpoint is never cleared.
    let message = quantize(&Options { restart: true, ..first }, |_| Ok(())).unwrap_err().to_string();
    assert_names(&message, &["already", "empty or new directory"]);
}

#[test]
fn damaged_notes_are_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(UNFINISHED), "{\"job\":").unwrap();
    let options = options(directory.path(), plan(Recipe::Gb24));
    assert_names(&quantize(&options, |_| Ok(())).unwrap_err().to_string(), &[UNFINISHED, "damaged", "--restart"]);
    quantize(&Options { restart: true, ..options }, |_| Ok(())).unwrap();
}

#[test]
fn sources_and_choices_that_make_no_sense_are_named() {
    let (directory, _) = quantized(plan(Recipe::Gb48));
    let out = tempfile::tempdir().unwrap();
    let again = Options { source: directory.path().to_owned(), ..options(out.path(), plan(Recipe::Gb24)) };
    assert_names(&quantize(&again, |_| Ok(())).unwrap_err().to_string(), &["quantised already", "--dequantize"]);
    let nothing = Plan { bits: Some(8), ignore: vec!["re:.*".into()], ..Plan::default() };
    let message = quantize(&options(out.path(), nothing), |_| Ok(())).unwrap_err().to_string();
    assert_names(&message, &["nothing to quantise"]);
    let inside = options(&testkit::tiny(), plan(Recipe::Gb24));
    assert_names(&quantize(&inside, |_| Ok(())).unwrap_err().to_string(), &["already"]);
    assert!(files(out.path()).is_empty());
}

#[test]
fn a_weight_that_is_not_finite_is_named_with_its_place() {
    let source = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let place = {
        let checkpoint = OmniCheckpoint::open(source.path()).unwrap();
        let tensor = &checkpoint.tensors()["thinker.lm_head.weight"];
        let mut found = None;
        for (name, bytes) in files(source.path()).into_iter().filter(|(name, _)| name.ends_with(".safetensors")) {
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            if let Ok(view) = file.tensor("thinker.lm_head.weight") {
                assert_eq!(view.data(), checkpoint.bytes(tensor));
                found = Some((name, view.data().as_ptr() as usize - bytes.as_ptr() as usize));
            }
        }
        found.unwrap()
    };
    let path = source.path().join(&place.0);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = place.1 + 4 * (64 * 1000 + 5);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let options = Options { source: source.path().to_owned(), ..options(out.path(), plan(Recipe::Gb24)) };
    let message = quantize(&options, |_| Ok(())).unwrap_err().to_string();
    assert_names(&message, &["thinker.lm_head.weight", "row 1000, column 5", "not a finite number"]);
}

#[test]
fn converting_carries_packed_layers_over_and_turns_them_into_floats_on_demand() {
    let asymmetric = Plan { asymmetric: true, ..plan(Recipe::Gb24) };
    for plan in [plan(Recipe::Gb24), asymmetric] {
        let (directory, report) = quantized(plan);
        let packed = OmniCheckpoint::open(directory.path()).unwrap();
        let carried = converted(directory.path(), Some(Dtype::F32), false);
        let carried = OmniCheckpoint::open(carried.path()).unwrap();
        carried.check(&Component::ALL).unwrap();
        let dense = converted(directory.path(), Some(Dtype::F32), true);
        let dense = OmniCheckpoint::open(dense.path()).unwrap();
        dense.check(&Component::ALL).unwrap();
        assert!(dense.quantization().is_none());
        for (name, tensor) in packed.tensors() {
            let other = &carried.tensors()[name];
            match name.contains(".weight_") {
                true => assert!(packed.bytes(tensor) == carried.bytes(other) && tensor.dtype == other.dtype, "{name}"),
                false => assert!(floats(&packed, name) == floats(&dense, name), "{name}"),
            }
        }
        for error in &report.tensors {
            let name = format!("{}.weight", error.module);
            let shape = [dense.tensors()[&name].shape[0], dense.tensors()[&name].shape[1]];
            assert!(unpacked(&packed, &error.module, shape) == floats(&dense, &name), "{name}");
        }
    }
}

#[test]
fn converting_changes_types_and_shards_and_back() {
    let bf16 = converted(&testkit::tiny(), Some(Dtype::Bf16), false);
    let f32 = converted(bf16.path(), Some(Dtype::F32), false);
    let again = converted(f32.path(), Some(Dtype::Bf16), false);
    assert!(files(bf16.path()) == files(again.path()));
    let [half, whole, source] =
        [bf16.path(), f32.path(), &testkit::tiny()].map(|directory| OmniCheckpoint::open(directory).unwrap());
    assert!(half.shards() < whole.shards());
    assert_eq!(half.config().top.dtype.as_deref(), Some("bfloat16"));
    for name in source.tensors().keys() {
        let rounded: Vec<f32> =
            floats(&source, name).iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
        assert!(floats(&whole, name) == rounded, "{name}");
    }
    // Without a type everything stays as it is.
    let same = converted(&testkit::tiny(), None, false);
    let same = OmniCheckpoint::open(same.path()).unwrap();
    assert!(source.tensors().iter().all(|(name, t)| source.bytes(t) == same.bytes(&same.tensors()[name])));
}

#[test]
fn a_value_too_large_for_the_type_is_named() {
    let source = tempfile::tempdir().unwrap();
    let made = init::Options {
        config: testkit::tiny().join("config.json"),
        out: source.path().to_owned(),
        seed: 1,
        layers: Some(1),
        dtype: Dtype::F32,
        plan: None,
        shard_bytes: u64::MAX,
        for_training: false,
        restart: false,
    };
    init(&made, |_| {}).unwrap();
    let path = source.path().join("model-00001-of-00001.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[data..data + 4].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let (source, out) = (source.path().to_owned(), out.path().to_owned());
    let dtype = Some(Dtype::F16);
    let options = convert::Options {
        source,
        out,
        adapters: vec![],
        dtype,
        dequantize: false,
        shard_bytes: SHARD,
        restart: false,
    };
    let message = convert(&options, |_| Ok(())).unwrap_err().to_string();
    assert_names(&message, &["code2wav.code_embedding.weight", "1000000", "too large for f16"]);
}

#[test]
fn init_draws_packed_layers_of_the_right_size() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (directory, asymmetric) in directories.iter().zip([false, true]) {
        let made = init::Options {
            config: testkit::tiny().join("config.json"),
            out: directory.path().to_owned(),
            seed: 7,
            layers: Some(2),
            dtype: Dtype::Bf16,
            plan: Some(Plan { asymmetric, ..plan(Recipe::Gb24) }),
            shard_bytes: SHARD,
            for_training: false,
            restart: false,
        };
        init(&made, |_| {}).unwrap();
        let checkpoint = OmniCheckpoint::open(directory.path()).unwrap();
        checkpoint.check(&Component::ALL).unwrap();
        let values = unpacked(&checkpoint, "thinker.lm_head", [1024, 64]);
        let mean_square = values.iter().map(|value| f64::from(value * value)).sum::<f64>() / values.len() as f64;
        assert!((mean_square * 64.0 - 1.0).abs() < 0.05, "{mean_square}");
        assert!(checkpoint.packed("thinker.model.layers.1.mlp.experts.7.down_proj", [64, 32]).unwrap().is_some());
    }
    assert_names(&init_error(Plan { bits: Some(5), ..Plan::default() }), &["--bits is 5"]);
}

fn init_error(plan: Plan) -> String {
    let directory = tempfile::tempdir().unwrap();
    let made = init::Options {
        config: testkit::tiny().join("config.json"),
        out: directory.path().to_owned(),
        seed: 7,
        layers: None,
        dtype: Dtype::Bf16,
        plan: Some(plan),
        shard_bytes: SHARD,
        for_training: false,
        restart: false,
    };
    init(&made, |_| {}).unwrap_err().to_string()
}
