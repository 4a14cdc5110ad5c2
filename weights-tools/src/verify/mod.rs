//! Recomputes golden cases of the reference implementation and compares every tensor.
//!
//! A golden directory holds one safetensors or JSON file per case, inputs and outputs together. A case's kind is the
//! longest known prefix of its name, so nothing is tied to one set of cases or to one checkpoint's dimensions.

mod audio;
mod case;
mod code2wav;
mod golden;
mod inputs;
mod limits;
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

use checkpoint::Weights;
use omni_core::{Dtype, Error, Place, Result};
use qwen3_omni::{Component, Device, OmniCheckpoint, OmniConfig};
use serde::Serialize;

use case::Case;
pub use case::{Check, Outcome};
use golden::Golden;
pub(crate) use inputs::{golden_pictures, golden_prompts, golden_sounds};
use limits::Limits;
pub(crate) use thinker::best;

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
    /// What computes; `None` for the kernels of host memory on the CPU, and burn tensors elsewhere.
    pub engine: Option<Engine>,
    /// The number type of the computation.
    pub dtype: Dtype,
    /// The reference's own errors in that number type, which bound ours; needed for all but f32.
    pub reference_errors: Option<PathBuf>,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The kernels of host memory.
    Host,
    /// burn tensors.
    Device,
}

impl Options {
    /// All cases of a directory, in f32 on the CPU.
    pub fn new(model: impl Into<PathBuf>, golden: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            golden: golden.into(),
            only: Vec::new(),
            device: Device::Cpu,
            engine: None,
            dtype: Dtype::F32,
            reference_errors: None,
        }
    }

    fn place(&self) -> Result<Place> {
        match (self.device.place(self.dtype)?, self.engine) {
            (Place::Host(device), Some(Engine::Device)) => Ok(Place::Device(device)),
            (Place::Device(_), Some(Engine::Host)) => {
                Err(Error::Request(format!("the engine of host memory does not compute on {}", self.device)))
            }
            (place, _) => Ok(place),
        }
    }

    fn limits(&self) -> Result<Limits> {
        match (self.dtype, &self.reference_errors) {
            (Dtype::F32, _) => Ok(Limits::F32 { slack: if self.device == Device::Cpu { 1.0 } else { 10.0 } }),
            (Dtype::Bf16, Some(path)) => Limits::read(path),
            (Dtype::Bf16, None) => {
                Err(Error::Request("bf16 is bounded by the reference's own errors in bf16: name their file".into()))
            }
            (Dtype::F16, _) => Err(Error::Unsupported("f16: the reference has no errors stored for it".into())),
        }
    }
}

/// Report on one case.
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

/// Runs the cases of one kind.
type Runner = fn(&Model, &mut Case) -> Result<()>;

/// A kind of case: the prefix of its names, the part of the model it belongs to, and its runner.
struct Kind {
    prefix: &'static str,
    component: Option<Component>,
    runner: Runner,
    /// Whether weights are multiplied, so that the results depend on the number type.
    computes: bool,
}

const fn kind(prefix: &'static str, component: Option<Component>, runner: Runner) -> Kind {
    Kind { prefix, component, runner, computes: false }
}

const fn computing(prefix: &'static str, component: Component, runner: Runner) -> Kind {
    Kind { prefix, component: Some(component), runner, computes: true }
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
    computing("thinker_", Component::Thinker, thinker::run),
    computing("talker_", Component::Talker, talker::run),
    computing("e2e_", Component::Talker, talker::run),
    computing("code_predictor", Component::CodePredictor, predictor::run),
    computing("code2wav_", Component::Code2Wav, code2wav::whole),
    computing("code2wav_chunked_", Component::Code2Wav, code2wav::chunked),
    kind("mel_", None, audio::mel),
    computing("audio_encoder_", Component::AudioEncoder, audio::encoder),
    kind("image_pre_", Some(Component::VisionEncoder), vision::image),
    kind("video_pre_", Some(Component::VisionEncoder), vision::video),
    kind("video_sampling", None, vision::sampling),
    kind("smart_resize", Some(Component::VisionEncoder), vision::sizes),
    computing("vision_", Component::VisionEncoder, vision::encoder),
];

/// A checkpoint on a device; parts are loaded when a case asks for them.
pub(crate) struct Model {
    directory: PathBuf,
    golden: PathBuf,
    checkpoint: OmniCheckpoint,
    place: Place,
    device: burn::tensor::Device,
    dtype: Dtype,
    limits: Limits,
}

impl Model {
    fn open(options: &Options) -> Result<Self> {
        let checkpoint = OmniCheckpoint::open(&options.model)?;
        let (limits, place) = (options.limits()?, options.place()?);
        let (directory, golden) = (options.model.clone(), options.golden.clone());
        let (device, dtype) = (place.device().clone(), options.dtype);
        Ok(Self { directory, golden, checkpoint, place, device, dtype, limits })
    }

    fn config(&self) -> &OmniConfig {
        self.checkpoint.config()
    }

    fn weights(&self) -> Weights<'_> {
        Weights::new(&self.checkpoint, &self.place, self.dtype)
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
    if let Some(absent) = kind.component.filter(|component| !model.config().has(*component)) {
        return ended(Outcome::Absent(format!("the checkpoint has no {absent}")));
    }
    match Golden::read(path) {
        Err(error) => ended(Outcome::Failed(error.to_string())),
        Ok(golden) => {
            Case::new(name, golden, model.limits.of_kind(kind.computes)).run(|case| (kind.runner)(model, case))
        }
    }
}

/// Verifies exactly these cases in a test, in f32 on the named device; on the CPU with both engines, and in bf16 too if the
/// reference's errors are given.
///
/// # Panics
/// If a case is missing, or one cannot be run, is not covered, or differs from the reference.
pub fn assert_cases(model: &Path, golden: &Path, device: &str, reference_errors: Option<&Path>, cases: &[&str]) {
    let device: Device = device.parse().expect("a device name");
    let only = cases.iter().map(|name| (*name).to_owned()).collect();
    let options = Options { only, device: device.clone(), ..Options::new(model, golden) };
    let engines = if device == Device::Cpu { &[Some(Engine::Host), Some(Engine::Device)][..] } else { &[None] };
    for engine in engines {
        let options = Options { engine: *engine, ..options.clone() };
        assert_passed(&options, cases);
        if let Some(errors) = reference_errors.filter(|_| device == Device::Cpu) {
            let reference_errors = Some(errors.to_owned());
            assert_passed(&Options { dtype: Dtype::Bf16, reference_errors, ..options }, cases);
        }
    }
}

fn assert_passed(options: &Options, cases: &[&str]) {
    let reports = run(options, |_| {}).expect("checkpoint and golden directory can be opened");
    let wanted = reports.iter().filter(|report| cases.contains(&report.case.as_str()));
    let found: Vec<&str> = wanted.clone().map(|report| report.case.as_str()).collect();
    let missing: Vec<_> = cases.iter().filter(|name| !found.contains(name)).collect();
    assert!(missing.is_empty(), "no golden files for {missing:?}");
    for report in wanted {
        let failed: Vec<&Check> = report.checks.iter().filter(|check| !check.passed).collect();
        let (engine, dtype) = (options.engine, options.dtype);
        let case = &report.case;
        assert!(report.outcome == Outcome::Passed, "{case}, {engine:?}, {dtype}: {:?}\n{failed:#?}", report.outcome);
    }
}
