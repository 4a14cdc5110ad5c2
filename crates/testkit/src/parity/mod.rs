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
mod model;
mod options;
#[cfg(feature = "parity-media")]
mod pictures;
mod positions;
mod predictor;
mod raw;
mod recorder;
mod report;
mod rotary;
mod sampling;
mod talker;
#[cfg(feature = "parity-omni")]
mod text;
mod thinker;
mod vision;

use std::path::Path;

use omni_core::{Dtype, Error, Place, Result};

use case::Case;
use golden::Golden;
pub use inputs::{golden_pictures, golden_prompts, golden_sounds};
use model::Model;
pub use options::Options;
pub use report::{CaseReport, Check, Outcome};
pub use thinker::best;

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
    kind("talker_", talker::run).computes().speaks("talker"),
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
