//! Stages take their steps in bf16 too, and share the batches of a step with a second device, that of `OMNI_TEST_DEVICE`: every one but
//! the codec's. That is trained in f32, on one device unless the vocoder is trained alone; what else is asked of it is refused (`codec`,
//! `trainer` and `program::early`). `gspo` shares batches here, though the program gives a step of it one.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use omni_core::Dtype;
use qwen3_omni_train::Result;
use qwen3_omni_train::data::Location;
use qwen3_omni_train::stage::{
    AutSettings, CheckpointTeacher, CodecSettings, CodedWave, CodedWaves, Conversations, DistillSettings, Distilling,
    DpoSettings, GspoSettings, Lessons, Preferring, Rewarding, Sft, SftSettings, SpokenAnswers, SpokenPair,
    SpokenPairs, SpokenSample, TalkerSettings, Talking, Transcribing, TranscriptSample, Transcripts, Vocoding,
};
use qwen3_omni_train::trainer::{Objective, RunSettings, TrainDtype, Trainer};
use testkit::{device_name, noise, tiny};

use super::stages::{heard_video, scored, spoken};

/// Losses of two steps.
type Losses = [f64; 2];

/// Takes two steps over the same batches in f32, with a second device, and in bf16.
fn check<O: Objective>(build: impl Fn(&RunSettings, &Device) -> Result<Trainer<O>>, batches: &[O::Batch]) {
    let alone = check_second(&build, TrainDtype::F32, batches);
    let narrow = match device_name().as_str() {
        "cpu" => check_second(&build, TrainDtype::Bf16, batches),
        // Not every GPU has bf16.
        _ => steps(&build, TrainDtype::Bf16, batches, &[]),
    };
    // Rounding each weight moves the first loss by about as much; a step of AdamW follows the signs of gradients, small ones among them.
    let as_good = (narrow[0] - alone[0]).abs() < 0.01 * alone[0].abs().max(1.0) && narrow[1] < narrow[0];
    assert!(narrow != alone && as_good, "{alone:?} in f32, {narrow:?} in bf16");
}

/// Takes two steps, alone and with a second device; returns the losses, which are the same.
fn check_second<O: Objective>(
    build: &impl Fn(&RunSettings, &Device) -> Result<Trainer<O>>,
    dtype: TrainDtype,
    batches: &[O::Batch],
) -> Losses {
    let second = device_name().parse::<qwen3_omni::Device>().unwrap().open().unwrap();
    let alone = steps(build, dtype, batches, &[]);
    let shared = steps(build, dtype, batches, &[second]);
    let limit = if device_name() == "cpu" { 0.0 } else { 1e-3 };
    let far = alone.iter().zip(shared).any(|(a, b)| (b - a).abs() > limit * a.abs());
    assert!(!far, "{alone:?} on one device, {shared:?} on two in {dtype:?}");
    alone
}

/// Takes two steps on the CPU and other devices.
fn steps<O: Objective>(
    build: &impl Fn(&RunSettings, &Device) -> Result<Trainer<O>>,
    dtype: TrainDtype,
    batches: &[O::Batch],
    others: &[Device],
) -> Losses {
    let run = RunSettings { dtype, ..RunSettings::default() };
    let other = |device: &Device| (device.clone(), build(&run, device).unwrap());
    let mut trainer = build(&run, &Device::flex()).unwrap().with_devices(others.iter().map(other)).unwrap();
    let losses = [1, 2].map(|step| trainer.step(step, batches, 1e-4, 1).unwrap().loss);
    assert!(!trainer.trained().is_empty() && losses[0] != losses[1], "{losses:?}");
    losses
}

/// Twice the conversation about a video, whose answer is learned, on a device with gradients.
fn conversations() -> Vec<qwen3_omni_train::model::Sample> {
    vec![heard_video().to_sample(&Device::flex().autodiff()); 2]
}

fn origin() -> String {
    "talks.jsonl:1".into()
}

#[test]
fn fine_tuning_of_the_thinker_and_its_encoders() {
    let settings = SftSettings { train: "+thinker.*".into(), ..SftSettings::default() };
    let batches: Vec<Conversations> =
        conversations().into_iter().map(|sample| Conversations { samples: vec![sample], origin: origin() }).collect();
    check(|run, on| Sft::trainer(&tiny(), &SftSettings { run: run.clone(), ..settings.clone() }, on), &batches);
}

#[test]
fn distillation() {
    let place = Location { path: Path::new("talks.jsonl").into(), line: 1 };
    let lessons = |sample| Lessons { samples: vec![sample], places: vec![place.clone()] };
    // Cross-entropy beside the divergence, which is 0 between a model and itself.
    let settings = DistillSettings { ce: 1.0, ..DistillSettings::default() };
    let build = |run: &RunSettings, on: &Device| {
        let teacher = CheckpointTeacher::open(&tiny(), &tiny(), on, Dtype::from(run.dtype))?;
        let settings = DistillSettings { run: run.clone(), ..settings.clone() };
        Distilling::trainer(&tiny(), Box::new(teacher), &settings, on)
    };
    check(build, &conversations().into_iter().map(lessons).collect::<Vec<_>>());
}

#[test]
fn rewarded_answers() {
    let settings = GspoSettings { divergence: 0.1, ..GspoSettings::default() };
    let build = |run: &RunSettings, on: &Device| {
        // Wide enough that rounding the model clips no answer.
        let mut settings = GspoSettings { run: run.clone(), ..settings.clone() };
        (settings.clip_range.low, settings.clip_range.high) = (0.9, 9.0);
        Rewarding::trainer(&tiny(), &settings, on)
    };
    check(build, &[scored(Vec::new()), scored(Vec::new())]);
}

#[test]
fn the_talker() {
    let behind_a_video =
        || SpokenSample { sample: heard_video().to_sample(&Device::flex()), ends: true, ..spoken(6, 0) };
    let batches = [(); 2].map(|()| SpokenAnswers { samples: vec![behind_a_video()], origin: origin() });
    let settings = TalkerSettings { new_speaker: Some("vera".into()), ..TalkerSettings::default() };
    check(|run, on| Talking::trainer(&tiny(), &TalkerSettings { run: run.clone(), ..settings.clone() }, on), &batches);
}

#[test]
fn preferences() {
    let pair = || SpokenPair { chosen: spoken(6, 0), rejected: spoken(6, 11) };
    let batches = [(); 2].map(|()| SpokenPairs { pairs: vec![pair()], origin: origin() });
    check(
        |run, on| Preferring::trainer(&tiny(), &DpoSettings { run: run.clone(), ..DpoSettings::default() }, on),
        &batches,
    );
}

#[test]
fn the_vocoder_alone() {
    let wave: Vec<f32> = (0..40_000).map(|at| 0.3 * (at as f32 * 0.05).sin()).collect();
    let batches = [0, 5].map(|shift| {
        let segment = CodedWave { codes: spoken(8, shift).codes, wave: wave.clone() };
        CodedWaves { segments: vec![segment], origin: origin() }
    });
    let settings = CodecSettings { decoder_only: true, ..CodecSettings::default() };
    let build = |run: &RunSettings, on: &Device| {
        Vocoding::trainer(&tiny(), &CodecSettings { run: run.clone(), ..settings.clone() }, on)
    };
    check_second(&build, TrainDtype::F32, &batches);
}

#[test]
fn the_audio_encoder() {
    let on = Device::flex().autodiff();
    let sound = |seed| Tensor::<1>::from_floats(noise(200 * 128, seed).as_slice(), &on).reshape([200, 128]);
    let rows = 26;
    let item = |seed| {
        let ids = vec![5, 6, 7, 8];
        let labels = [None, Some(6), Some(7), Some(8)].to_vec();
        TranscriptSample { sound: sound(seed), ids, labels, rows }
    };
    let batches = [1, 2].map(|seed| Transcripts { items: vec![item(seed)], window: 1, origin: origin() });
    let settings = AutSettings::default();
    check(
        |run, on| Transcribing::trainer(&tiny(), &AutSettings { run: run.clone(), ..settings.clone() }, on),
        &batches,
    );
}
