use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use omni_core::Dtype;
use qwen3_omni::Device;
use qwen3_omni_train::data::{BatchOptions, Batches, BatchesState, DataSource, SampleOptions, SampleReader};
use qwen3_omni_train::stage::{
    Augmenter, BatchFeed, DpoSettings, GspoSettings, LoraSettings, Preferring, Rewarding, Rollouts, Sft, SftSettings,
    SpeechReader, TalkerSettings, Talking, conversations,
};
use qwen3_omni_train::trainer::{
    Ended, Feed, Limits, Objective, Run, RunSettings, Started, StepLine, TrainState, Trainer, resume,
};
use qwen3_omni_train::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::checks::{StepBatches, path_and_share};
use super::rewards::RewardArguments;
use super::{note, say, settings};

/// Arguments of every stage.
#[derive(Args)]
pub(super) struct Common {
    /// Checkpoint to start from.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// JSON lines to learn from; several files are mixed by their shares of tokens, FILE=SHARE.
    #[arg(long, required = true, value_name = "FILE[=SHARE]")]
    pub(super) data: Vec<String>,
    /// Folder of the run: its log and checkpoints. A run that is there already goes on.
    #[arg(long)]
    pub(super) out: PathBuf,
    /// TOML file of settings; see `settings`.
    #[arg(long)]
    settings: Option<PathBuf>,
    /// Change one setting, as run.steps=200.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// End with a checkpoint after this time.
    #[arg(long)]
    pub(super) minutes: Option<f64>,
    /// Stop at the first bad line instead of counting it.
    #[arg(long)]
    pub(super) strict: bool,
    /// Threads that share the batches of a step (run.batches_per_step); the result is the same for any number. Training the whole codec
    /// takes one.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Where to train: cpu, wgpu or cuda:0; several, as cuda:0,cuda:1, share the batches of a step (run.batches_per_step).
    #[arg(long, default_value = "cpu", value_delimiter = ',')]
    pub(super) device: Vec<Device>,
}

/// Fine-tune the thinker on conversations, in full or by adapters.
#[derive(Args)]
#[command(
    after_help = "Example: qwen3-omni-train sft --model nano --data talks.jsonl --out run --lora --set run.steps=200"
)]
pub(crate) struct SftCommand {
    #[command(flatten)]
    common: Common,
    /// Train adapters (LoRA) instead of the matrices.
    #[arg(long)]
    lora: bool,
}

/// Train the talker on spoken answers; with --new-speaker, a voice of its own.
#[derive(Args)]
#[command(
    after_help = "Example: qwen3-omni-train talker --model nano --data vera.jsonl --out run --lora --new-speaker vera"
)]
pub(crate) struct TalkerCommand {
    #[command(flatten)]
    common: Common,
    /// Train adapters (LoRA) instead of the matrices.
    #[arg(long)]
    lora: bool,
    /// Name of a voice that the checkpoint does not have yet.
    #[arg(long)]
    new_speaker: Option<String>,
}

/// Train the talker to prefer one speech of an answer to another.
#[derive(Args)]
#[command(after_help = "Example: qwen3-omni-train dpo --model nano --data pairs.jsonl --out run")]
pub(crate) struct DpoCommand {
    #[command(flatten)]
    common: Common,
}

/// Train the thinker by rewards of its own answers (GSPO).
#[derive(Args)]
#[command(
    after_help = "Example: qwen3-omni-train gspo --model nano --data sums.jsonl --out run --reward number --reward json=0.2"
)]
pub(crate) struct GspoCommand {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    rewards: RewardArguments,
}

impl SftCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let defaults = SftSettings { lora: self.lora.then(LoraSettings::default), ..SftSettings::default() };
        let settings = self.common.settings(defaults)?;
        let build = |on: &_| Sft::trainer(&self.common.model, &settings, on);
        let (trainer, device) = self.common.trainer(&settings, &settings.run, StepBatches::Set, build)?;
        let on = device.clone().autodiff();
        let feed = |state| {
            let batches = self.common.batches(&settings.run, false, true, state)?;
            let mut augmenter = Augmenter::new(settings.augment.clone(), settings.run.seed, batches.state().batches);
            Ok(BatchFeed::new(batches, settings.run.batches_per_step, move |mut batch| {
                augmenter.augment(&mut batch);
                Ok(conversations(batch, &on))
            }))
        };
        self.common.train(&settings, &settings.run, (trainer, &device), feed)
    }
}

impl TalkerCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let defaults = TalkerSettings {
            lora: self.lora.then(LoraSettings::talker),
            new_speaker: self.new_speaker.clone(),
            ..TalkerSettings::default()
        };
        let settings = self.common.settings(defaults)?;
        let build = |on: &_| Talking::trainer(&self.common.model, &settings, on);
        let (trainer, device) = self.common.trainer(&settings, &settings.run, StepBatches::Set, build)?;
        let speaker = trainer.objective.new_speaker().map(|(name, id)| (name.to_owned(), Some(id)));
        let speech = self.common.speech(speaker, &device)?;
        let feed = |state| {
            let batches = self.common.batches(&settings.run, false, false, state)?;
            Ok(BatchFeed::new(batches, settings.run.batches_per_step, move |batch| speech.answers(batch)))
        };
        self.common.train(&settings, &settings.run, (trainer, &device), feed)
    }
}

impl DpoCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let settings = self.common.settings(DpoSettings::default())?;
        let build = |on: &_| Preferring::trainer(&self.common.model, &settings, on);
        let (trainer, device) = self.common.trainer(&settings, &settings.run, StepBatches::Set, build)?;
        let speech = self.common.speech(None, &device)?;
        let feed = |state| {
            let batches = self.common.batches(&settings.run, false, false, state)?;
            Ok(BatchFeed::new(batches, settings.run.batches_per_step, move |batch| speech.pairs(batch)))
        };
        self.common.train(&settings, &settings.run, (trainer, &device), feed)
    }
}

impl GspoCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let settings = self.common.settings(GspoSettings::default())?;
        settings.validate()?;
        self.rewards.check()?;
        let build = |on: &_| Rewarding::trainer(&self.common.model, &settings, on);
        let (trainer, device) = self.common.trainer(&settings, &settings.run, StepBatches::One, build)?;
        let reward = self.rewards.reward(settings.group, self.common.device())?;
        self.common.train_on_answers(&settings, &settings.run, (trainer, &device), |place, sources, state| {
            Rollouts::start(place, sources, &reward, &settings, self.common.device().clone(), state)
        })
    }
}

/// Opens files with their shares, `FILE[=SHARE]`.
pub(super) fn sources(data: &[String]) -> Result<Vec<DataSource>> {
    let source = |text: &String| {
        let (path, share) = path_and_share(text);
        Ok(DataSource::open(path.to_string_lossy(), [path])?.with_share(share))
    };
    data.iter().map(source).collect()
}

impl Common {
    pub(super) fn settings<S: Serialize + DeserializeOwned>(&self, defaults: S) -> Result<S> {
        settings::read(defaults, self.settings.as_deref(), &self.set)
    }

    /// The device that holds the parameters, the first of those that are named.
    pub(super) fn device(&self) -> &Device {
        &self.device[0]
    }

    /// Checks what the stage was asked for, opens all devices and builds a trainer on each. Returns them as one, with its device.
    pub(super) fn trainer<O: Objective, S: Serialize + DeserializeOwned + Default>(
        &self,
        settings: &S,
        run: &RunSettings,
        batches: StepBatches,
        build: impl Fn(&burn::tensor::Device) -> Result<Trainer<O>>,
    ) -> Result<(Trainer<O>, burn::tensor::Device)> {
        self.check(settings, run, batches)?;
        let dtype: Dtype = run.dtype.into();
        let devices = self.device.iter().map(|device| device.open_for(dtype)).collect::<omni_core::Result<Vec<_>>>()?;
        let trainer = build(&devices[0])?;
        let others = devices[1..].iter().map(|device| Ok((device.clone(), build(device)?)));
        Ok((trainer.with_devices(others.collect::<Result<Vec<_>>>()?)?, devices[0].clone()))
    }

    pub(super) fn batches(
        &self,
        run: &RunSettings,
        rejected: bool,
        needs_labels: bool,
        state: Option<Value>,
    ) -> Result<Batches> {
        // What is not learned as text is spoken, and reasoning never is.
        let options = SampleOptions::default().without_reasoning(!needs_labels);
        let reader = SampleReader::open(&self.model, options)?;
        self.batches_read_by(reader, run, rejected, needs_labels, state)
    }

    pub(super) fn batches_read_by(
        &self,
        reader: SampleReader,
        run: &RunSettings,
        rejected: bool,
        needs_labels: bool,
        state: Option<Value>,
    ) -> Result<Batches> {
        let state = batches_state(state)?;
        let mut options = BatchOptions::default();
        (options.tokens_per_batch, options.seed, options.strict) = (run.tokens_per_batch, run.seed, self.strict);
        (options.window, options.rejected, options.needs_labels) = (run.window, rejected, needs_labels);
        Batches::start(sources(&self.data)?, reader, options, state)
    }

    fn speech(&self, speaker: Option<(String, Option<u32>)>, device: &burn::tensor::Device) -> Result<SpeechReader> {
        let checkpoint = checkpoint::Checkpoint::open(&self.model)?;
        Ok(SpeechReader::new(checkpoint.config().section()?, speaker, device.clone()))
    }

    /// Runs a stage whose model makes its own data: `feed` is given the source with the folder of the weights that answer, the prompts,
    /// and where it was.
    pub(super) fn train_on_answers<'s, S: Serialize + DeserializeOwned + Default, O: Objective, F: Feed<O>>(
        &'s self,
        settings: &S,
        run: &RunSettings,
        start: (Trainer<O>, &burn::tensor::Device),
        feed: impl FnOnce((&'s Path, PathBuf), Vec<DataSource>, Option<Value>) -> Result<F>,
    ) -> Result<bool> {
        let weights = self.out.join("policy");
        let place = (self.model.as_path(), weights.clone());
        let result = self.train(settings, run, start, |state| feed(place, sources(&self.data)?, state));
        // The weights that answered are those of the last checkpoint, or older.
        let _ = std::fs::remove_dir_all(&weights);
        result
    }

    /// Runs a stage to its end; goes on with the run that the folder holds.
    pub(super) fn train<S: Serialize + DeserializeOwned + Default, O: Objective, F: Feed<O>>(
        &self,
        settings: &S,
        run: &RunSettings,
        (trainer, device): (Trainer<O>, &burn::tensor::Device),
        feed: impl FnOnce(Option<Value>) -> Result<F>,
    ) -> Result<bool> {
        let schedule = run.schedule()?;
        let unwritten = |error: serde_json::Error| Error::Option { name: "settings", reason: error.to_string() };
        let written = serde_json::to_value(settings).map_err(unwritten)?;
        let fresh = TrainState { settings: written, ..TrainState::default() };
        let started = resume(&self.out, trainer, run.optimizer, settings, device)?;
        let (mut trainer, mut state) = match started {
            Started::Anew(trainer) => (*trainer, fresh),
            Started::Again(resumed) => {
                note(format_args!("going on after step {}", resumed.state.step));
                (resumed.trainer, resumed.state)
            }
        };
        let mut feed = feed((state.step > 0).then(|| state.data.clone()))?;
        let limits = Limits { steps: run.steps, time: self.time()?, save_every: run.save_every, keep: run.keep };
        let training = Run { source: &self.model, folder: &self.out, schedule, limits, workers: self.workers };
        let bar = bar(run.steps, state.step);
        let (ended, path) = training.train(&mut trainer, &mut state, &mut feed, &mut |line| {
            show(&bar, line);
            true
        })?;
        bar.finish_and_clear();
        let why = match ended {
            Ended::Steps => "all steps are taken",
            Ended::Time => "its time is over",
            Ended::Data => "its data are over",
            Ended::Stopped => "it was stopped",
        };
        note(format_args!("{why} after step {}", state.step));
        say(format_args!("{}", path.display()));
        Ok(true)
    }
}

/// Where the data of a run stand.
pub(super) fn batches_state(state: Option<Value>) -> Result<Option<BatchesState>> {
    let unreadable = |error: serde_json::Error| Error::Option { name: "state", reason: error.to_string() };
    state.map(serde_json::from_value).transpose().map_err(unreadable)
}

fn bar(steps: usize, done: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} {eta} left");
    let bar = ProgressBar::new(steps as u64).with_position(done as u64);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Shows a step on a terminal, and every few steps as a line where there is none.
fn show(bar: &ProgressBar, line: &StepLine) {
    let StepLine { step, loss, tokens_per_second, .. } = line;
    let parts: String = line.parts.iter().map(|(name, value)| format!(" {name} {value:.4}")).collect();
    bar.set_position(*step as u64);
    bar.set_message(format!("loss {loss:.4} {tokens_per_second:.0} tokens/s"));
    if bar.is_hidden() && (*step < 10 || step.is_multiple_of(10)) {
        note(format_args!("step {step}: loss {loss:.4}{parts}, {tokens_per_second:.0} tokens/s"));
    }
}
