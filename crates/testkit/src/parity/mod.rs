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
#[cfg(feature = "parity-media")]
mod pictures;
mod positions;
mod predictor;
mod recorder;
mod rotary;
mod sampling;
#[cfg(feature = "parity-omni")]
mod talker;
#[cfg(feature = "parity-omni")]
mod text;
mod thinker;
mod vision;

use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, ConfigSection};
use omni_core::{Dtype, Error, Place, Result};
use serde::Serialize;

use case::Case;
pub use case::{Check, Outcome};
use golden::Golden;
pub use inputs::{golden_pictures, golden_prompts, golden_sounds};
use limits::Limits;
pub use thinker::best;

/// What to verify, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkpoint directory.
    pub model: PathBuf,
    /// The golden directory.
    pub golden: PathBuf,
    /// Prefixes of case names; only cases with one of them run, or all if empty.
    pub only: Vec<String>,
    /// Where the model computes, and on which engine.
    pub place: Place,
    /// The number type of the computation.
    pub dtype: Dtype,
    /// Factor on the f32 limits: a GPU sums in other orders than a CPU.
    pub slack: f64,
    /// The reference's own errors in that number type, which limit ours; needed for all but f32.
    pub reference_errors: Option<PathBuf>,
}

impl Options {
    /// Selects all cases of a directory, in f32, with the limits of a CPU.
    pub fn new(model: impl Into<PathBuf>, golden: impl Into<PathBuf>, place: Place) -> Self {
        let (model, golden, only) = (model.into(), golden.into(), Vec::new());
        Self { model, golden, only, place, dtype: Dtype::F32, slack: 1.0, reference_errors: None }
    }

    fn limits(&self) -> Result<Limits> {
        match (self.dtype, &self.reference_errors) {
            (Dtype::F32, _) => Ok(Limits::F32 { slack: self.slack }),
            (Dtype::Bf16, Some(path)) => Limits::read(path),
            (Dtype::Bf16, None) => {
                Err(Error::Request("bf16 is bounded by the reference's own errors in bf16: name their file".into()))
            }
            (Dtype::F16, _) => Err(Error::unsupported("f16: the reference has no errors stored for it")),
        }
    }
}

/// Report on one golden case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub case: String,
    /// The verdict.
    pub outcome: Outcome,
    /// All comparisons.
    pub checks: Vec<Check>,
}

impl CaseReport {
    /// Whether the case passed, was absent, or was not covered while that is allowed.
    pub fn passes(&self, allow_uncovered: bool) -> bool {
        match &self.outcome {
            Outcome::Passed | Outcome::Absent(_) => true,
            Outcome::NotCovered(_) => allow_uncovered,
            Outcome::Failed(_) => false,
        }
    }
}

/// A function that runs the cases of one kind.
type Runner = fn(&Model, &mut Case) -> Result<()>;

/// A kind of case: the prefix of its names and its runner.
struct Kind {
    prefix: &'static str,
    /// The part of the model that it needs, where checkpoints without audio output lack it.
    speaks: Option<&'static str>,
    runner: Runner,
    /// Whether weights are multiplied, so that the results depend on the number type.
    computes: bool,
}

/// A kind of case that every checkpoint runs.
const fn kind(prefix: &'static str, runner: Runner) -> Kind {
    Kind { prefix, speaks: None, runner, computes: false }
}

impl Kind {
    const fn computes(self) -> Self {
        Self { computes: true, ..self }
    }

    const fn speaks(self, part: &'static str) -> Self {
        Self { speaks: Some(part), ..self }
    }
}

const KINDS: &[Kind] = &[
    #[cfg(feature = "parity-omni")]
    kind("tokenizer_cases", text::tokenizer),
    #[cfg(feature = "parity-omni")]
    kind("chat_template_cases", text::template),
    kind("positions_", positions::run),
    kind("audio_lengths", positions::audio_lengths),
    kind("rotary_mrope", rotary::mrope),
    kind("rotary_mrope_released", rotary::released),
    kind("rotary_plain", rotary::plain).speaks("code predictor"),
    kind("sampling", sampling::run),
    kind("thinker_", thinker::run).computes(),
    #[cfg(feature = "parity-omni")]
    kind("talker_", talker::run).computes().speaks("talker"),
    #[cfg(feature = "parity-omni")]
    kind("e2e_", talker::run).computes().speaks("talker"),
    kind("code_predictor", predictor::run).computes().speaks("code predictor"),
    kind("code2wav_", code2wav::whole).computes().speaks("code2wav"),
    kind("code2wav_chunked_", code2wav::chunked).computes().speaks("code2wav"),
    #[cfg(feature = "parity-media")]
    kind("mel_", audio::mel),
    kind("audio_encoder_", audio::encoder).computes(),
    #[cfg(feature = "parity-media")]
    kind("image_pre_", pictures::image),
    #[cfg(feature = "parity-media")]
    kind("video_pre_", pictures::video),
    #[cfg(feature = "parity-media")]
    kind("video_sampling", pictures::sampling),
    #[cfg(feature = "parity-media")]
    kind("smart_resize", pictures::sizes),
    kind("vision_", vision::encoder).computes(),
];

/// A checkpoint on a device; parts are loaded when a case asks for them.
struct Model {
    #[cfg(feature = "parity-omni")]
    directory: PathBuf,
    #[cfg(feature = "parity-media")]
    golden: PathBuf,
    checkpoint: Checkpoint,
    place: Place,
    device: burn::tensor::Device,
    dtype: Dtype,
    limits: Limits,
}

impl Model {
    fn open(options: &Options) -> Result<Self> {
        Ok(Self {
            #[cfg(feature = "parity-omni")]
            directory: options.model.clone(),
            #[cfg(feature = "parity-media")]
            golden: options.golden.clone(),
            checkpoint: Checkpoint::open(&options.model)?,
            place: options.place.clone(),
            device: options.place.device().clone(),
            dtype: options.dtype,
            limits: options.limits()?,
        })
    }

    /// Reads the section of the config that belongs to one part.
    fn section<C: ConfigSection>(&self) -> Result<C> {
        Ok(self.checkpoint.config().section()?)
    }

    /// Whether the checkpoint has the parts that speak.
    fn speaks(&self) -> bool {
        self.checkpoint.config().get("enable_audio_output").and_then(serde_json::Value::as_bool).unwrap_or(true)
    }

    /// The token id that ends the text.
    fn end_id(&self) -> Option<u32> {
        let id = self.checkpoint.config().get("im_end_token_id")?.as_u64()?;
        u32::try_from(id).ok()
    }
}

/// Runs every case of the directory, calling `report` after each.
///
/// # Errors
/// If the checkpoint or the golden directory cannot be opened, or a prefix selects no case.
pub fn run(options: &Options, mut report: impl FnMut(&CaseReport)) -> Result<Vec<CaseReport>> {
    let model = Model::open(options)?;
    let mut cases = golden::cases(&options.golden)?;
    // Beside names that are there, a misspelt one would pass as if its cases had run.
    if let Some(prefix) =
        options.only.iter().find(|prefix| !cases.iter().any(|(name, _)| name.starts_with(prefix.as_str())))
    {
        let path = options.golden.display();
        return Err(Error::Request(format!(
            "{path}: no case in this golden directory has a name that begins with {prefix}"
        )));
    }
    cases.retain(|(name, _)| {
        options.only.is_empty() || options.only.iter().any(|prefix| name.starts_with(prefix.as_str()))
    });
    if cases.is_empty() {
        return Err(Error::Request(format!("{}: no case in this golden directory", options.golden.display())));
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
    if let Some(absent) = kind.speaks.filter(|_| !model.speaks()) {
        return ended(Outcome::Absent(format!("the checkpoint has no {absent}")));
    }
    match Golden::read(path) {
        Err(error) => ended(Outcome::Failed(error.to_string())),
        Ok(golden) => {
            Case::new(name, golden, model.limits.of_kind(kind.computes)).run(|case| (kind.runner)(model, case))
        }
    }
}

/// Verifies exactly these cases of the small checkpoint in a test, on the device of `OMNI_TEST_DEVICE`: in f32, and on the CPU
/// with both engines and in bf16 too, against the reference's own errors in bf16.
///
/// # Panics
/// If a case is missing, or one cannot be run, is not covered, or differs from the reference.
pub fn assert_cases(cases: &[&str]) {
    let name = crate::device_name();
    let only: Vec<String> = cases.iter().map(|name| (*name).to_owned()).collect();
    for place in places(&name) {
        let slack = if name == "cpu" { 1.0 } else { 10.0 };
        let options = Options { only: only.clone(), slack, ..Options::new(crate::tiny(), crate::golden(), place) };
        assert_passed(&options, cases);
        if name == "cpu" {
            let reference_errors = Some(crate::bf16_errors());
            assert_passed(&Options { dtype: Dtype::Bf16, reference_errors, ..options }, cases);
        }
    }
}

/// The places to verify: both engines on the CPU, the tensor engine elsewhere.
///
/// # Panics
/// For a device that this build or this machine does not have.
fn places(name: &str) -> Vec<Place> {
    #[cfg(feature = "parity-omni")]
    let place = name.parse::<qwen3_omni::Device>().and_then(|device| device.place(Dtype::F32)).expect("a device");
    #[cfg(not(feature = "parity-omni"))]
    let place = match name {
        "cpu" => Place::Host(burn::tensor::Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Place::Device(burn::tensor::Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        other => panic!("these tests are not built for `{other}`; with the whole workspace they are"),
    };
    match place {
        Place::Host(device) => vec![Place::Host(device.clone()), Place::Device(device)],
        device => vec![device],
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
        let (place, dtype) = (options.place.kind(), options.dtype);
        let case = &report.case;
        assert!(report.outcome == Outcome::Passed, "{case}, {place:?}, {dtype}: {:?}\n{failed:#?}", report.outcome);
    }
}
