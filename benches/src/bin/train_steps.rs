//! Times the training steps of a small checkpoint, stage by stage, on one thread of the CPU.
//!
//! Prints one JSON line per stage: `stage`, `rows` (what one step takes), `median_ms` and `min_ms` of processor time, `runs`. The
//! sizes are those of `benches/train/reference.py`, which takes the same steps with PyTorch.
#![allow(clippy::print_stdout, clippy::print_stderr)] // A program owns its terminal.

use std::path::PathBuf;
use std::process::ExitCode;

use aut_encoder::{AudioConfig, AutEncoder};
use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::Checkpoint;
use clap::Parser;
use moe_talker::Turns;
use omni_core::{Dtype, Place};
use qwen3_omni_benches::timing::{cpu_seconds, median, rounded};
use serde_json::json;
use train::Error;
use train::model::Sample;
use train::stage::{
    CodecSettings, CodedWave, CodedWaves, Conversations, Sft, SftSettings, SpokenAnswers, SpokenSample, TalkerSettings,
    Talking, Vocoding,
};
use train::trainer::{Objective, Trainer};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Time the training steps of a small checkpoint
#[derive(Debug, Parser)]
struct Command {
    /// Checkpoint whose sizes are used
    #[arg(long, default_value = "examples/assets/nano")]
    model: PathBuf,
    /// Steps of each stage, the first not counted
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Only these stages
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

fn main() -> ExitCode {
    let command = Command::parse();
    // One thread, as the reference's figures are.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    let run = || {
        command.stage("thinker", "48 x 40 tokens", || thinker(&command))?;
        command.stage("talker", "20 x 85 rows", || talker(&command))?;
        command.stage("vocoder", "5 x 12 frames", || vocoder(&command))?;
        command.stage("audio encoder", "40 s", || audio(&command))
    };
    match pool.map_err(|error| error.to_string()).and_then(|()| run().map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn stage(&self, name: &str, rows: &str, times: impl FnOnce() -> Result<Vec<f64>>) -> Result<()> {
        if !self.only.is_empty() && !self.only.iter().any(|only| only == name) {
            return Ok(());
        }
        let mut times = times()?;
        times.sort_by(f64::total_cmp);
        let line = json!({
            "stage": name, "rows": rows, "median_ms": rounded(median(&times), 1), "min_ms": rounded(times[0], 1), "runs": times.len(),
        });
        println!("{line}");
        Ok(())
    }

    /// Milliseconds of processor time of each call but the first.
    fn timed(&self, mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        step()?;
        let once = |_| {
            let started = cpu_seconds();
            step()?;
            Ok((cpu_seconds() - started) * 1e3)
        };
        (1..self.runs.max(2)).map(once).collect()
    }

    fn steps<O: Objective>(&self, mut trainer: Trainer<O>, batch: O::Batch) -> Result<Vec<f64>> {
        let batches = [batch];
        self.timed(|| trainer.step(1, &batches, 1e-3, 1).map(drop))
    }
}

fn device() -> Device {
    Device::flex()
}

/// Ids of words, always the same for a `seed`.
fn words(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i.wrapping_add(1000 * seed).wrapping_mul(2_654_435_761) >> 16) % 256).collect()
}

fn thinker(command: &Command) -> Result<Vec<f64>> {
    let trainer = Sft::trainer(&command.model, &SftSettings::default(), &device())?;
    let sample = |index: u32| {
        let ids = words(40, index);
        let labels = ids.iter().copied().map(Some).collect();
        Sample { ids, labels, ..Sample::default() }
    };
    command.steps(trainer, Conversations { samples: (0..48).map(sample).collect(), origin: String::new() })
}

fn talker(command: &Command) -> Result<Vec<f64>> {
    let checkpoint = Checkpoint::open(&command.model)?;
    let turns: Turns = checkpoint.config().section()?;
    let end = checkpoint.config().get("im_end_token_id").and_then(|id| id.as_u64()).unwrap_or(0) as u32;
    let trainer = Talking::trainer(&command.model, &TalkerSettings::default(), &device())?;
    let sample = |index: u32| {
        let turn = |role: u32, text: Vec<u32>| [vec![turns.im_start, role, 0], text, vec![end, 0]].concat();
        // A user turn of 16 rows, the nine rows of the opening, and 60 frames.
        let ids = [turn(turns.user, words(11, index)), turn(turns.assistant, words(8, index + 100))].concat();
        let codes = (0..60).map(|frame| words(4, 1000 * index + frame)).collect();
        let sample = Sample { labels: vec![None; ids.len()], ids, ..Sample::default() };
        SpokenSample { sample, speaker: 367, codes, ends: true }
    };
    command.steps(trainer, SpokenAnswers { samples: (0..20).map(sample).collect(), origin: String::new() })
}

fn vocoder(command: &Command) -> Result<Vec<f64>> {
    let trainer = Vocoding::trainer(&command.model, &CodecSettings::default(), &device())?;
    let segment = |index: u32| {
        let codes = (0..12).map(|frame| words(4, 100 * index + frame)).collect();
        let wave = testkit::noise(12 * 1920, u64::from(index)).iter().map(|sample| sample * 0.1).collect();
        CodedWave { codes, wave }
    };
    command.steps(trainer, CodedWaves { segments: (0..5).map(segment).collect(), origin: String::new() })
}

/// The audio encoder alone, forwards and backwards, on 40 seconds in one sound.
fn audio(command: &Command) -> Result<Vec<f64>> {
    let checkpoint = Checkpoint::open(&command.model)?;
    let config: AudioConfig = checkpoint.config().section()?;
    let device = device().autodiff();
    let encoder = AutEncoder::from_checkpoint(&checkpoint, &Place::Device(device.clone()), Dtype::F32)?;
    let mel = testkit::noise(4000 * config.num_mel_bins, 1);
    let mel = Tensor::<2>::from_data(TensorData::new(mel, [4000, config.num_mel_bins]), &device);
    let step = || -> Result<()> {
        let rows = encoder.hidden_states(std::slice::from_ref(&mel), None)?;
        drop(rows.square().mean().backward());
        Ok(())
    };
    // On a pool thread, as the trainer takes its steps.
    command.timed(|| rayon::scope(|_| step()))
}
