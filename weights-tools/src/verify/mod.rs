//! Recomputes golden cases of the reference implementation and compares every tensor.
//!
//! A golden directory holds one safetensors or JSON file per case, inputs and outputs together. A case's kind is the
//! longest known prefix of its name, so nothing is tied to one set of cases or to one checkpoint's dimensions.

mod audio;
mod case;
mod code2wav;
mod golden;
mod inputs;
mod positions;
mod predictor;
mod recorder;
mod rotary;
mod sampling;
mod talker;
mod text;
mod thinker;
mod vision;

use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, Component, OmniConfig, Weights};
use omni_core::{Dtype, Error, Result};
use qwen3_omni::Device;
use serde::Serialize;

use case::Case;
pub use case::{Check, Outcome};
use golden::Golden;
pub(crate) use inputs::{golden_pictures, golden_prompts, golden_sounds};

/// What to verify, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The golden directory.
    pub golden: PathBuf,
    /// Only cases whose name starts with one of these; empty for all.
    pub only: Vec<String>,
    /// Where the model runs.
    pub device: Device,
}

/// What became of one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub case: String,
    /// The verdict.
    pub outcome: Outcome,
    /// Every comparison.
    pub checks: Vec<Check>,
}

impl CaseReport {
    /// True unless the case failed, or was not covered and that is not allowed.
    pub fn passes(&self, allow_uncovered: bool) -> bool {
        match &self.outcome {
            Outcome::Passed | Outcome::Absent(_) => true,
            Outcome::NotCovered(_) => allow_uncovered,
            Outcome::Failed(_) => false,
        }
    }
}

/// What runs the cases of one kind.
type Runner = fn(&Model, &mut Case) -> Result<()>;

/// A kind of case: the prefix of its names, the part of the model it belongs to, and its runner.
struct Kind {
    prefix: &'static str,
    component: Option<Component>,
    runner: Runner,
}

const fn kind(prefix: &'static str, component: Option<Component>, runner: Runner) -> Kind {
    Kind { prefix, component, runner }
}

const KINDS: [Kind; 21] = [
    kind("tokenizer_cases", None, text::tokenizer),
    kind("chat_template_cases", None, text::template),
    kind("positions_", Some(Component::Thinker), positions::run),
    kind("audio_lengths", Some(Component::AudioEncoder), positions::audio_lengths),
    kind("rotary_mrope", Some(Component::Thinker), rotary::mrope),
    kind("rotary_mrope_released", None, rotary::released),
    kind("rotary_plain", Some(Component::CodePredictor), rotary::plain),
    kind("sampling", None, sampling::run),
    kind("thinker_", Some(Component::Thinker), thinker::run),
    kind("talker_", Some(Component::Talker), talker::run),
    kind("e2e_", Some(Component::Talker), talker::run),
    kind("code_predictor", Some(Component::CodePredictor), predictor::run),
    kind("code2wav_", Some(Component::Code2Wav), code2wav::whole),
    kind("code2wav_chunked_", Some(Component::Code2Wav), code2wav::chunked),
    kind("mel_", None, audio::mel),
    kind("audio_encoder_", Some(Component::AudioEncoder), audio::encoder),
    kind("image_pre_", Some(Component::VisionEncoder), vision::image),
    kind("video_pre_", Some(Component::VisionEncoder), vision::video),
    kind("video_sampling", None, vision::sampling),
    kind("smart_resize", Some(Component::VisionEncoder), vision::sizes),
    kind("vision_", Some(Component::VisionEncoder), vision::encoder),
];

/// A checkpoint on a device; parts are loaded when a case asks for them.
pub(crate) struct Model {
    directory: PathBuf,
    golden: PathBuf,
    checkpoint: Checkpoint,
    device: burn::tensor::Device,
    /// How much further from the reference a device may be than the CPU.
    slack: f64,
}

impl Model {
    fn open(options: &Options) -> Result<Self> {
        let checkpoint = Checkpoint::open(&options.model)?;
        let slack = if options.device == Device::Cpu { 1.0 } else { 10.0 };
        let device = options.device.open_for(Dtype::F32)?;
        Ok(Self { directory: options.model.clone(), golden: options.golden.clone(), checkpoint, device, slack })
    }

    fn config(&self) -> &OmniConfig {
        self.checkpoint.config()
    }

    fn weights(&self) -> Weights<'_> {
        Weights::new(&self.checkpoint, &self.device, Dtype::F32)
    }

    fn checked(&self, component: Component) -> Result<Weights<'_>> {
        self.checkpoint.check(&[component])?;
        Ok(self.weights())
    }
}

/// Runs every case of the directory, calling `report` after each.
///
/// # Errors
/// If the checkpoint or the golden directory cannot be opened, or no case is selected.
pub fn run(options: &Options, mut report: impl FnMut(&CaseReport)) -> Result<Vec<CaseReport>> {
    let model = Model::open(options)?;
    let mut cases = golden::cases(&options.golden)?;
    cases.retain(|(name, _)| {
        options.only.is_empty() || options.only.iter().any(|prefix| name.starts_with(prefix.as_str()))
    });
    if cases.is_empty() {
        let which = if options.only.is_empty() {
            "no case".into()
        } else {
            format!("no case named {}", options.only.join(", "))
        };
        return Err(Error::Request(format!("{}: {which} in this golden directory", options.golden.display())));
    }
    let mut reports = Vec::new();
    for (name, path) in cases {
        let done = run_case(&model, &name, &path);
        report(&done);
        reports.push(done);
    }
    Ok(reports)
}

fn run_case(model: &Model, name: &str, path: &Path) -> CaseReport {
    let ended = |outcome| CaseReport { case: name.to_owned(), outcome, checks: Vec::new() };
    let known = KINDS.iter().filter(|kind| name.starts_with(kind.prefix)).max_by_key(|kind| kind.prefix.len());
    let Some(kind) = known else {
        return ended(Outcome::NotCovered("unknown kind of case".into()));
    };
    if let Some(absent) = kind.component.filter(|component| !component.is_in(model.config())) {
        return ended(Outcome::Absent(format!("the checkpoint has no {absent}")));
    }
    match Golden::read(path) {
        Err(error) => ended(Outcome::Failed(error.to_string())),
        Ok(golden) => Case::new(name, golden, model.slack).run(|case| (kind.runner)(model, case)),
    }
}

/// Verifies exactly these cases in a test, on the named device.
///
/// # Panics
/// If a case is missing, or one cannot be run, is not covered, or differs from the reference.
pub fn assert_cases(model: &Path, golden: &Path, device: &str, cases: &[&str]) {
    let device = device.parse().expect("a device name");
    let only = cases.iter().map(|name| (*name).to_owned()).collect();
    let options = Options { model: model.to_owned(), golden: golden.to_owned(), only, device };
    let reports = run(&options, |_| {}).expect("checkpoint and golden directory can be opened");
    let wanted = reports.iter().filter(|report| cases.contains(&report.case.as_str()));
    let found: Vec<&str> = wanted.clone().map(|report| report.case.as_str()).collect();
    let missing: Vec<_> = cases.iter().filter(|name| !found.contains(name)).collect();
    assert!(missing.is_empty(), "no golden files for {missing:?}");
    for report in wanted {
        let failed: Vec<&Check> = report.checks.iter().filter(|check| !check.passed).collect();
        assert!(report.outcome == Outcome::Passed, "{}: {:?}\n{failed:#?}", report.case, report.outcome);
    }
}
