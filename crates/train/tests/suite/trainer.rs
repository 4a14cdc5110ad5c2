//! The training loop: accumulation, checkpoints, exact resume, and runs that go wrong.

use std::path::Path;

use burn::tensor::Device;
use qwen3_omni_train::model::Sample;
use qwen3_omni_train::optim::AdamWConfig;
use qwen3_omni_train::stage::{CodecSettings, Coding, Conversations, LoraSettings, Sft, SftSettings};
use qwen3_omni_train::trainer::{
    Ended, Feed, Limits, Log, Run, RunSettings, Started, TrainDtype, TrainState, Trainer, check_unchanged, resume,
};
use qwen3_omni_train::{Error, Result};
use testkit::tiny;

/// A batch of two conversations of pseudo-random ids, the second half of each with labels.
fn batch(number: u32) -> Conversations {
    let sample = |length: u32| {
        let ids: Vec<u32> = (0..length).map(|at| (number * 977 + at * 131 + length) % 900).collect();
        let label = |(at, id): (usize, &u32)| (at >= ids.len() / 2).then_some(*id);
        Sample { labels: ids.iter().enumerate().map(label).collect(), ids: ids.clone(), ..Sample::default() }
    };
    Conversations { samples: vec![sample(9), sample(14)], origin: format!("batch {number}") }
}

/// Batches by their numbers, two a step.
struct Numbers(u32);

impl Feed<Sft> for Numbers {
    fn next_step(&mut self, _: &Trainer<Sft>) -> Result<Vec<Conversations>> {
        self.0 += 2;
        Ok(vec![batch(self.0 - 2), batch(self.0 - 1)])
    }

    fn state(&self) -> Result<serde_json::Value> {
        Ok(self.0.into())
    }
}

fn settings(lora: Option<LoraSettings>) -> SftSettings {
    let run = RunSettings { steps: 6, rate: 1e-3, ..RunSettings::default() };
    SftSettings {
        train: "+thinker.model.layers.1.* +thinker.lm_head.*".into(),
        lora,
        run,
        balance: 0.01,
        ..SftSettings::default()
    }
}

fn begin(settings: &SftSettings) -> (Trainer<Sft>, TrainState) {
    let trainer = Sft::trainer(&tiny(), settings, &Device::flex()).unwrap();
    let json = serde_json::to_value(settings).unwrap();
    (trainer, TrainState { settings: json, ..TrainState::default() })
}

/// Trains until `stop` steps are taken, from the last checkpoint of the folder if there is one.
fn train(folder: &Path, settings: &SftSettings, stop: usize) -> Ended {
    let (start, state) = begin(settings);
    let resumed = resume(folder, start, settings.run.optimizer, &state.settings, &Device::flex()).unwrap();
    let (mut trainer, mut state) = match resumed {
        Started::Again(resumed) => (resumed.trainer, resumed.state),
        Started::Anew(trainer) => (*trainer, state),
    };
    let limits = Limits { steps: 6, time: None, save_every: 2, keep: 2 };
    let schedule = settings.run.schedule().unwrap();
    let run = Run { source: &tiny(), folder, schedule, limits, workers: 1 };
    let mut feed = Numbers(state.data.as_u64().unwrap_or(0) as u32);
    run.train(&mut trainer, &mut state, &mut feed, &mut |line| line.step < stop).unwrap().0
}

/// Compares all tensor files of two checkpoints to the byte.
fn same_tensors(a: &Path, b: &Path) {
    let mut compared = 0;
    for folder in ["", "trainer"] {
        let files = std::fs::read_dir(a.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")) {
            let name = path.strip_prefix(a).unwrap();
            assert!(std::fs::read(&path).unwrap() == std::fs::read(b.join(name)).unwrap(), "{name:?} differs");
            compared += 1;
        }
    }
    assert!(compared > 2, "{compared} files");
}

#[test]
fn a_resumed_run_equals_one_that_was_never_stopped() {
    for lora in [None, Some(LoraSettings { rank: 2, ..LoraSettings::default() })] {
        let mut settings = settings(lora);
        settings.run.ema = settings.lora.is_some();
        let [whole, resumed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        assert_eq!(train(whole.path(), &settings, 99), Ended::Steps);
        for stop in [1, 3, 4] {
            assert_eq!(train(resumed.path(), &settings, stop), Ended::Stopped);
        }
        // What a kill leaves of a checkpoint, and of steps behind the last one.
        std::fs::create_dir(resumed.path().join("step-000005.partial")).unwrap();
        let log = resumed.path().join("log.jsonl");
        let mut text = std::fs::read_to_string(&log).unwrap();
        text.push_str(&text.lines().last().unwrap().replace("\"step\":4", "\"step\":5"));
        text.push_str("\n{\"step\":");
        std::fs::write(&log, text).unwrap();
        assert_eq!(train(resumed.path(), &settings, 99), Ended::Steps);
        let [a, b] = [&whole, &resumed].map(|run| run.path().join("step-000006"));
        same_tensors(&a, &b);
        let [a, b] = [&whole, &resumed].map(|run| Log::read(&run.path().join("log.jsonl")).unwrap());
        assert!(a.len() == 6 && a.iter().zip(&b).all(|(a, b)| a.same_but_for_time(b)) && a.len() == b.len());
        assert!(a[5].loss < a[0].loss, "{} → {}", a[0].loss, a[5].loss);
    }
}

#[test]
fn a_step_of_two_batches_equals_one_of_both_together() {
    let settings = SftSettings { balance: 0.0, ..settings(None) };
    let [mut apart, mut joined] = [(); 2].map(|()| begin(&settings).0);
    let both = Conversations { samples: [batch(0).samples, batch(1).samples].concat(), origin: String::new() };
    let a = apart.step(1, &[batch(0), batch(1)], 1e-3, 1).unwrap();
    let b = joined.step(1, &[both], 1e-3, 1).unwrap();
    assert!((a.loss - b.loss).abs() < 1e-5 && (a.norm / b.norm - 1.0).abs() < 1e-4, "{a:?} and {b:?}");
    assert_eq!((a.rows, a.tokens), (b.rows, b.tokens));
}

#[test]
fn several_workers_take_the_same_step() {
    let settings = settings(Some(LoraSettings { rank: 2, ..LoraSettings::default() }));
    let batches: Vec<Conversations> = (0..5).map(batch).collect();
    let step = |workers| {
        let mut trainer = begin(&settings).0;
        let reports = [(); 2].map(|()| trainer.step(1, &batches, 1e-3, workers).unwrap());
        let values = trainer.names.values(&trainer.model);
        (reports, values.into_iter().map(|(name, value)| (name, nn::to_f32_vec(&value))).collect::<Vec<_>>())
    };
    let alone = step(1);
    for workers in [2, 3, 9] {
        assert!(alone == step(workers), "{workers} workers");
    }
}

#[test]
fn a_run_in_bf16_resumes_exactly_and_learns_as_in_f32() {
    for lora in [None, Some(LoraSettings { rank: 2, ..LoraSettings::default() })] {
        let plain = settings(lora);
        let mut narrow = plain.clone();
        narrow.run.dtype = TrainDtype::Bf16;
        narrow.run.ema = narrow.lora.is_some();
        let [wide, whole, resumed] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        train(wide.path(), &plain, 99);
        train(whole.path(), &narrow, 99);
        for stop in [1, 3, 99] {
            train(resumed.path(), &narrow, stop);
        }
        same_tensors(&whole.path().join("step-000006"), &resumed.path().join("step-000006"));
        let [wide, whole] = [&wide, &whole].map(|run| Log::read(&run.path().join("log.jsonl")).unwrap());
        for (a, b) in wide.iter().zip(&whole) {
            assert!((a.loss / b.loss - 1.0).abs() < 0.01, "step {}: {} in f32, {} in bf16", a.step, a.loss, b.loss);
        }
        assert!(whole[5].loss < whole[0].loss, "{} → {}", whole[0].loss, whole[5].loss);
    }
}

#[test]
fn several_devices_take_the_same_step() {
    let settings = settings(Some(LoraSettings { rank: 2, ..LoraSettings::default() }));
    let batches: Vec<Conversations> = (0..5).map(batch).collect();
    let step = |replicas: &[&SftSettings]| {
        let other = |settings: &&SftSettings| (Device::flex(), begin(settings).0);
        let mut trainer = begin(&settings).0.with_devices(replicas.iter().map(other)).unwrap();
        let reports = [1, 2].map(|number| trainer.step(number, &batches, 1e-3, 1).unwrap());
        let values = trainer.names.values(&trainer.model);
        (reports, values.into_iter().map(|(name, value)| (name, nn::to_f32_vec(&value))).collect::<Vec<_>>())
    };
    let alone = step(&[]);
    // Their adapters begin with other values, which those of the first device replace.
    let mut drawn_anew = settings.clone();
    drawn_anew.run.seed = 1;
    for replicas in [1, 2, 7] {
        assert!(alone == step(&vec![&drawn_anew; replicas]), "{replicas} more devices");
    }
    let weighs_more = SftSettings { balance: 1.0, ..drawn_anew };
    assert!(alone != step(&[&weighs_more]), "the second device computes nothing");
}

#[test]
fn stages_whose_batches_depend_on_each_other_have_one_device() {
    let settings = CodecSettings { fresh: true, ..CodecSettings::default() };
    let [one, other] = [(); 2].map(|()| Coding::trainer(&tiny(), &settings, &Device::flex()).unwrap());
    let refused = one.with_devices([(Device::flex(), other)]).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("device") && refused.contains("expected one device"), "{refused}");
}

#[test]
fn an_adapter_of_the_source_is_left_behind() {
    let [tuned, run] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    train(tuned.path(), &settings(Some(LoraSettings { rank: 2, ..LoraSettings::default() })), 1);
    let source = tuned.path().join("step-000001");
    assert!(source.join("adapter_model.safetensors").exists());
    let settings = settings(None);
    let mut trainer = Sft::trainer(&source, &settings, &Device::flex()).unwrap();
    let limits = Limits { steps: 1, time: None, save_every: 1, keep: 1 };
    let run_of =
        Run { source: &source, folder: run.path(), schedule: settings.run.schedule().unwrap(), limits, workers: 1 };
    run_of.train(&mut trainer, &mut TrainState::default(), &mut Numbers(0), &mut |_| true).unwrap();
    let folder = run.path().join("step-000001");
    assert!(folder.join("config.json").exists());
    assert!(["adapter_config.json", "adapter_model.safetensors"].iter().all(|file| !folder.join(file).exists()));
}

#[test]
fn a_checkpoint_holds_the_moving_average() {
    let name = "thinker.model.layers.1.self_attn.q_proj.weight";
    let after = |ema: bool, step: usize| {
        let run = tempfile::tempdir().unwrap();
        let mut settings = settings(None);
        settings.run.ema = ema;
        train(run.path(), &settings, step);
        let checkpoint = checkpoint::Checkpoint::open(run.path().join(format!("step-{step:06}"))).unwrap();
        values(&checkpoint, name)
    };
    let start = values(&checkpoint::Checkpoint::open(tiny()).unwrap(), name);
    let [one, two, average] = [after(false, 1), after(false, 2), after(true, 2)];
    // Decays 2/11 and 3/12.
    let expected = |at: usize| 0.25 * (start[at] * 2.0 + one[at] * 9.0) / 11.0 + 0.75 * two[at];
    let worst = (0..start.len()).map(|at| (average[at] - expected(at)).abs()).fold(0.0, f32::max);
    let moved = (0..start.len()).map(|at| (average[at] - two[at]).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6 && moved > 1e-5, "{worst}, {moved}");
}

#[test]
fn wide_matrices_move_by_smaller_steps() {
    let settings = settings(None);
    let moved = |rate_fan_in| {
        let mut settings = settings.clone();
        settings.run.optimizer = AdamWConfig { weight_decay: 0.0, rate_fan_in, ..AdamWConfig::default() };
        let mut trainer = begin(&settings).0;
        let values = |trainer: &Trainer<Sft>| {
            let name = "thinker.model.layers.1.self_attn.q_proj.weight";
            let norm = "thinker.model.layers.1.input_layernorm.weight";
            let mut values = trainer.names.values(&trainer.model);
            [name, norm].map(|name| nn::to_f32_vec(&values.remove(name).unwrap()))
        };
        let before = values(&trainer);
        trainer.step(1, &[batch(0)], 1e-3, 1).unwrap();
        let after = values(&trainer);
        // The first step moves each value by the rate.
        [0, 1].map(|index| {
            let moves = before[index].iter().zip(&after[index]).map(|(before, after)| (after - before).abs());
            moves.fold(0.0, f32::max)
        })
    };
    let inputs = 64;
    for (most, factor) in [(None, 1.0), (Some(inputs), 1.0), (Some(inputs / 4), 0.25)] {
        let [matrix, norm] = moved(most);
        assert!((matrix - factor * 1e-3).abs() < 2e-6 && (norm - 1e-3).abs() < 2e-6, "{most:?}: {matrix}, {norm}");
    }
    let zero =
        RunSettings { optimizer: AdamWConfig { rate_fan_in: Some(0), ..AdamWConfig::default() }, ..settings.run };
    assert!(zero.schedule().unwrap_err().to_string().contains("rate_fan_in"));
}

fn values(checkpoint: &checkpoint::Checkpoint, name: &str) -> Vec<f32> {
    let (fours, _) = checkpoint.bytes(&checkpoint.tensors()[name]).as_chunks::<4>();
    fours.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn only_what_is_trained_changes_and_checkpoints_are_models() {
    let run = tempfile::tempdir().unwrap();
    train(run.path(), &settings(None), 2);
    let [before, after] =
        [tiny(), run.path().join("step-000002")].map(|path| checkpoint::Checkpoint::open(path).unwrap());
    assert_eq!(before.tensors().len(), after.tensors().len());
    for (name, tensor) in before.tensors() {
        let changed = before.bytes(tensor) != after.bytes(&after.tensors()[name]);
        let trained = name.starts_with("thinker.model.layers.1.") || name.starts_with("thinker.lm_head.");
        assert!(trained || !changed, "{name} was changed");
        // All but experts that no row chose moved.
        assert!(changed || !trained || name.contains("experts"), "{name} was not changed");
    }
}

#[test]
fn adapters_are_written_as_peft_names_them_and_merged() {
    let run = tempfile::tempdir().unwrap();
    train(run.path(), &settings(Some(LoraSettings { rank: 2, ..LoraSettings::default() })), 2);
    let folder = run.path().join("step-000002");
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "base_model.model.thinker.model.layers.0.self_attn.q_proj.lora_B.weight";
    assert_eq!(file.tensor(name).unwrap().shape()[1], 2);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(2), Some(16.0)));
    let [before, after] = [tiny(), folder].map(|path| checkpoint::Checkpoint::open(path).unwrap());
    for (name, tensor) in before.tensors() {
        let changed = before.bytes(tensor) != after.bytes(&after.tensors()[name]);
        let adapted =
            name.starts_with("thinker.model.layers.") && name.ends_with("_proj.weight") && name.contains("self_attn");
        assert_eq!(changed, adapted, "{name}");
    }
}

#[test]
fn adapters_of_a_run_in_bf16_are_merged_from_their_f32_values() {
    for ema in [false, true] {
        let run = tempfile::tempdir().unwrap();
        let mut settings = settings(Some(LoraSettings { rank: 2, ..LoraSettings::default() }));
        (settings.run.dtype, settings.run.ema) = (TrainDtype::Bf16, ema);
        train(run.path(), &settings, 2);
        let folder = run.path().join("step-000002");
        let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let module = "thinker.model.layers.0.self_attn.q_proj";
        let [a, b] = ["A", "B"].map(|factor| {
            let factor = file.tensor(&format!("base_model.model.{module}.lora_{factor}.weight")).unwrap();
            factor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>()
        });
        let name = format!("{module}.weight");
        let [before, after] = [tiny(), folder].map(|path| values(&checkpoint::Checkpoint::open(path).unwrap(), &name));
        let (rank, input) = (2, a.len() / 2);
        // α is 16.
        let product = |at: usize| {
            let (row, column) = (at / input, at % input);
            8.0 * (0..rank).map(|r| b[row * rank + r] * a[r * input + column]).sum::<f32>()
        };
        let worst = (0..before.len()).map(|at| (before[at] + product(at) - after[at]).abs()).fold(0.0, f32::max);
        let moved = (0..before.len()).map(|at| (before[at] - after[at]).abs()).fold(0.0, f32::max);
        // bf16 holds weights of this size to about 1e-3.
        assert!(worst < 1e-6 && moved > 1e-4, "{worst}, moved by {moved}");
    }
}

#[test]
fn runs_that_cannot_work_say_why() {
    let message = |error: Error| error.to_string();
    let nothing = SftSettings { train: "+talker.*".into(), ..settings(None) };
    let error = Sft::trainer(&tiny(), &nothing, &Device::flex()).unwrap_err();
    assert!(message(error).contains("+talker.*"));

    let (mut trainer, ..) = begin(&settings(None));
    let silent = Conversations {
        samples: vec![Sample { ids: vec![1, 2], labels: vec![None, None], ..Sample::default() }],
        origin: "a.jsonl:7".into(),
    };
    assert!(message(trainer.step(3, &[silent], 1e-3, 1).unwrap_err()).contains("step 3"));
    let mut beyond = batch(0);
    beyond.samples[0].labels[5] = Some(1 << 20);
    assert!(message(trainer.step(1, &[beyond], 1e-3, 1).unwrap_err()).contains("1048576"));
    // A rate that leaves no finite weight: the next loss is not finite, and names its batch.
    trainer.step(1, &[batch(0)], 1e30, 1).unwrap();
    let error = message(trainer.step(2, &[batch(1)], 1e-3, 1).unwrap_err());
    assert!(error.contains("batch 1") && error.contains("step 2"), "{error}");

    let run = tempfile::tempdir().unwrap();
    train(run.path(), &settings(None), 2);
    let mut changed = settings(None);
    changed.run.optimizer.beta1 = 0.8;
    let (start, state) = begin(&changed);
    let error = resume(run.path(), start, changed.run.optimizer, &state.settings, &Device::flex()).unwrap_err();
    assert!(message(error).contains("`run.optimizer.beta1` was 0.9 and is now 0.8"));
}

/// Removes settings from a checkpoint of a run, as if the code that began it had not had them: that of sounds, and some of groups.
pub(super) fn forget(checkpoint: &Path, settings: &[(&str, &str)]) {
    let path = checkpoint.join("trainer/state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let known = state["settings"].as_object_mut().unwrap();
    known.shift_remove("augment").unwrap();
    for (group, name) in settings {
        known[*group].as_object_mut().unwrap().shift_remove(*name).unwrap();
    }
    std::fs::write(path, state.to_string()).unwrap();
}

#[test]
fn settings_that_a_run_did_not_know_have_their_defaults() {
    let run = tempfile::tempdir().unwrap();
    let mut settings = settings(Some(LoraSettings { rank: 2, ..LoraSettings::default() }));
    train(run.path(), &settings, 2);
    forget(&run.path().join("step-000002"), &[("run", "dtype"), ("lora", "alpha")]);
    let changed = |settings: &SftSettings| check_unchanged(run.path(), settings).map_err(|error| error.to_string());
    changed(&settings).unwrap();
    settings.run.dtype = TrainDtype::Bf16;
    assert!(changed(&settings).unwrap_err().contains("`run.dtype` was \"f32\" and is now \"bf16\""));
    settings.run.dtype = TrainDtype::F32;
    settings.lora = None;
    assert!(changed(&settings).unwrap_err().contains("`lora` was {\"rank\":2"));
}
