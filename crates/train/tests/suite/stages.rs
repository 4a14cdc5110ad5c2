//! Each stage learns: its loss falls over a few steps on one batch, and its checkpoint is a model.

use std::path::Path;

use burn::tensor::Device;
use checkpoint::Checkpoint;
use moe_talker::{TalkerConfig, Turns};
use moe_thinker::ThinkerConfig;
use qwen3_omni_train::data::{Line, Location, ReadSample, SampleOptions, SampleReader};
use qwen3_omni_train::model::Sample;
use qwen3_omni_train::stage::{
    CodecSettings, CodedWave, CodedWaves, DpoSettings, GspoSettings, LoraSettings, Preferring, Rewarding, ScoredAnswer,
    ScoredAnswers, SpokenAnswers, SpokenPair, SpokenPairs, SpokenSample, TalkerSettings, Talking, Vocoding,
};
use qwen3_omni_train::trainer::{Feed, Limits, Log, Objective, Run, RunSettings, TrainDtype, TrainState, Trainer};
use serde_json::json;
use testkit::tiny;

const STEPS: usize = 5;

fn settings(rate: f64) -> RunSettings {
    RunSettings { steps: STEPS, rate, ..RunSettings::default() }
}

/// The same batch for every step.
struct One<'a, B>(&'a dyn Fn() -> B);

impl<O: Objective> Feed<O> for One<'_, O::Batch> {
    fn next_step(&mut self, _: &Trainer<O>) -> qwen3_omni_train::Result<Vec<O::Batch>> {
        Ok(vec![(self.0)()])
    }

    fn state(&self) -> qwen3_omni_train::Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }
}

/// Trains on one batch; returns the losses.
fn learn<O: Objective>(
    mut trainer: Trainer<O>,
    settings: &RunSettings,
    folder: &Path,
    batch: &dyn Fn() -> O::Batch,
) -> Vec<f64> {
    let limits = Limits { steps: STEPS, time: None, save_every: 100, keep: 1 };
    let run = Run { source: &tiny(), folder, schedule: settings.schedule().unwrap(), limits, workers: 1 };
    run.train(&mut trainer, &mut TrainState::default(), &mut One(batch), &mut |_| true).unwrap();
    let losses: Vec<f64> = Log::read(&folder.join("log.jsonl")).unwrap().into_iter().map(|line| line.loss).collect();
    assert!(losses[STEPS - 1] < 0.98 * losses[0], "{losses:?}");
    losses
}

/// A spoken answer to a short question, with codes of a simple pattern.
pub(super) fn spoken(frames: u32, shift: u32) -> SpokenSample {
    let checkpoint = Checkpoint::open(tiny()).unwrap();
    let turns: Turns = checkpoint.config().section().unwrap();
    let end = checkpoint.config().get("im_end_token_id").unwrap().as_u64().unwrap() as u32;
    let newline = 198;
    let turn = |role: u32, body: &[u32]| [&[turns.im_start, role, newline], body, &[end, newline]].concat();
    let ids = [turn(turns.user, &[7, 8, 9]), turn(turns.assistant, &[20, 21, 22])].concat();
    let codes = (0..frames).map(|frame| (0..4).map(|book| (frame * 3 + book + shift) % 30).collect()).collect();
    let speaker = 1061;
    SpokenSample {
        sample: Sample { labels: vec![None; ids.len()], ids, ..Sample::default() },
        speaker,
        codes,
        ends: true,
    }
}

#[test]
fn the_talker_learns_codes() {
    let run = tempfile::tempdir().unwrap();
    let settings = TalkerSettings { run: settings(2e-3), ..TalkerSettings::default() };
    let start = Talking::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let batch = || SpokenAnswers { samples: vec![spoken(6, 0), spoken(3, 5)], origin: String::new() };
    learn(start, &settings.run, run.path(), &batch);
}

/// A conversation about a video with sound.
pub(super) fn heard_video() -> ReadSample {
    let line = json!({
        "messages": [{"role": "user", "content": "<video>"}, {"role": "assistant", "content": "A clip."}],
        "videos": [testkit::media().join("clip.mp4")], "use_audio_in_video": true,
    });
    let location = Location { path: Path::new("talks.jsonl").into(), line: 1 };
    let line = Line::parse(&line.to_string(), &location).unwrap();
    SampleReader::open(tiny(), SampleOptions::default()).unwrap().read(&line).unwrap()
}

#[test]
fn the_talker_learns_behind_a_video_that_is_heard() {
    let run = tempfile::tempdir().unwrap();
    let settings = TalkerSettings { run: settings(2e-3), ..TalkerSettings::default() };
    let start = Talking::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let batch = || {
        let sample = heard_video().to_sample(&Device::flex());
        SpokenAnswers { samples: vec![SpokenSample { sample, ..spoken(6, 0) }], origin: String::new() }
    };
    learn(start, &settings.run, run.path(), &batch);
}

#[test]
fn a_batch_that_cannot_be_computed_is_named() {
    let settings = TalkerSettings { run: settings(2e-3), ..TalkerSettings::default() };
    let mut trainer = Talking::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let mut broken = spoken(6, 0);
    let thinker: ThinkerConfig = Checkpoint::open(tiny()).unwrap().config().section().unwrap();
    broken.sample.ids[3] = thinker.image_token_id;
    let batch = SpokenAnswers { samples: vec![broken], origin: "talks.jsonl:7".into() };
    let message = trainer.step(4, &[batch], 1e-3, 1).unwrap_err().to_string();
    assert!(
        message.starts_with("step 4, the batch with talks.jsonl:7: ") && message.contains("placeholder"),
        "{message}"
    );
}

#[test]
fn a_new_speaker_is_a_row_and_a_name() {
    // In bf16 too, the other rows stay as they are on disk, in f32.
    [TrainDtype::F32, TrainDtype::Bf16].into_iter().for_each(adds_a_speaker);
}

fn adds_a_speaker(dtype: TrainDtype) {
    let run = tempfile::tempdir().unwrap();
    let settings = TalkerSettings {
        new_speaker: Some("Vera".into()),
        lora: Some(LoraSettings { rank: 2, ..LoraSettings::talker() }),
        run: RunSettings { dtype, ..settings(2e-2) },
        ..TalkerSettings::default()
    };
    let start = Talking::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let config: TalkerConfig = Checkpoint::open(tiny()).unwrap().config().section().unwrap();
    let id = config.speaker_id.values().max().unwrap() + 1;
    let batch = || {
        let sample = SpokenSample { speaker: id, ..spoken(6, 0) };
        SpokenAnswers { samples: vec![sample], origin: String::new() }
    };
    learn(start, &settings.run, run.path(), &batch);

    let after = Checkpoint::open(run.path().join(format!("step-{STEPS:06}"))).unwrap();
    let config: TalkerConfig = after.config().section().unwrap();
    assert_eq!(config.speaker_id["vera"], id);
    let before = Checkpoint::open(tiny()).unwrap();
    let name = "talker.model.codec_embedding.weight";
    let [old, new] = [&before, &after].map(|checkpoint| checkpoint.bytes(&checkpoint.tensors()[name]).to_vec());
    let width = old.len() / before.tensors()[name].shape[0];
    let changed: Vec<usize> =
        (0..old.len() / width).filter(|row| old[row * width..][..width] != new[row * width..][..width]).collect();
    assert_eq!(changed, [id as usize], "rows of the table that changed in {dtype:?}");

    let known = TalkerSettings { new_speaker: Some("Ethan".into()), ..settings };
    assert!(Talking::trainer(&tiny(), &known, &Device::flex()).unwrap_err().to_string().contains("ethan"));
}

#[test]
fn the_talker_learns_preferences() {
    let run = tempfile::tempdir().unwrap();
    let settings = DpoSettings { run: settings(1e-4), ..DpoSettings::default() };
    let start = Preferring::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let batch = || {
        let pair = SpokenPair { chosen: spoken(6, 0), rejected: spoken(6, 11) };
        SpokenPairs { pairs: vec![pair], origin: String::new() }
    };
    let losses = learn(start, &settings.run, run.path(), &batch);
    // At the start the talker prefers neither more than the reference, which it is.
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-4, "{losses:?}");
}

#[test]
fn the_vocoder_learns_waves() {
    let run = tempfile::tempdir().unwrap();
    let settings = CodecSettings { run: settings(1e-3), ..CodecSettings::default() };
    let start = Vocoding::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let wave: Vec<f32> = (0..40_000).map(|at| 0.3 * (at as f32 * 0.05).sin()).collect();
    let batch = || {
        let segment = CodedWave { codes: spoken(8, 0).codes, wave: wave.clone() };
        CodedWaves { segments: vec![segment], origin: String::new() }
    };
    learn(start, &settings.run, run.path(), &batch);
    let short = CodedWaves {
        segments: vec![CodedWave { codes: spoken(8, 0).codes, wave: vec![0.0; 100] }],
        origin: String::new(),
    };
    let mut trainer = Vocoding::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    assert!(trainer.step(1, &[short], 1e-3, 1).unwrap_err().to_string().contains("100 samples"));
}

#[test]
fn a_speech_that_was_stopped_has_no_end_to_learn() {
    let settings = TalkerSettings { residual: 0.0, balance: 0.0, ..TalkerSettings::default() };
    let trainer = Talking::trainer(&tiny(), &settings, &Device::flex()).unwrap();
    let loss = |frames: u32, ends: bool| {
        let sample = SpokenSample { ends, ..spoken(frames, 0) };
        let batch = SpokenAnswers { samples: vec![sample], origin: String::new() };
        assert_eq!(trainer.objective.rows(&batch), frames as usize + usize::from(ends));
        f64::from(trainer.objective.loss(&trainer.model, &batch).unwrap().sum.into_scalar::<f32>())
    };
    let (stopped, ended, longer) = (loss(5, false), loss(5, true), loss(6, false));
    assert!(stopped > 0.0 && ended > stopped + 0.1 && longer > stopped + 0.1, "{stopped} {ended} {longer}");
}

/// Answers with advantages, which the policy of now wrote.
pub(super) fn scored(token_advantages: Vec<f64>) -> ScoredAnswers {
    let answer = |shift: u32, advantage: f64, token_advantages: &[f64]| {
        let ids: Vec<u32> = (0..8).map(|at| (at * 131 + shift) % 900).collect();
        let labels = ids.iter().enumerate().map(|(at, id)| (at > 4).then_some(*id)).collect();
        let sample = Sample { ids, labels, ..Sample::default() };
        let (token_advantages, old) = (token_advantages.to_vec(), vec![-7.0, -6.9, -7.1]);
        ScoredAnswer { sample, reward: 0.0, advantage, token_advantages, old }
    };
    let answers = vec![answer(3, 0.8, &token_advantages), answer(40, -0.8, &[])];
    ScoredAnswers { answers, ..ScoredAnswers::default() }
}

#[test]
fn an_advantage_for_each_token_counts_only_where_it_is_asked_for() {
    let loss = |per_token: bool, advantages: &[f64]| {
        let mut settings = GspoSettings { per_token, ..GspoSettings::default() };
        (settings.clip_range.low, settings.clip_range.high) = (0.9, 9.0);
        let trainer = Rewarding::trainer(&tiny(), &settings, &Device::flex()).unwrap();
        let found = trainer.objective.loss(&trainer.model, &scored(advantages.to_vec()));
        found.map(|found| found.sum.into_scalar::<f32>())
    };
    let whole = loss(false, &[]).unwrap();
    assert!((loss(true, &[]).unwrap() - whole).abs() < 1e-5 && whole.abs() > 1e-3, "{whole}");
    assert_eq!(loss(false, &[3.0, 0.0, 0.0]).unwrap(), whole);
    // Three times as much on one of three tokens is as much in all; then twice as much.
    assert!((loss(true, &[2.4, 0.0, 0.0]).unwrap() - whole).abs() < 1e-5);
    assert!((loss(true, &[0.8, 3.2, 0.8]).unwrap() - whole).abs() > 1e-3);
    let error = loss(true, &[1.0]).unwrap_err().to_string();
    assert!(error.contains("1 advantages") && error.contains("3 tokens"), "{error}");
}
