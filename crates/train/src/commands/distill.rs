use std::path::PathBuf;

use clap::Args;
use omni_core::Dtype;
use qwen3_omni::Device;
use qwen3_omni_train::Result;
use qwen3_omni_train::data::{BatchOptions, Batches, DataSource, SampleOptions, SampleReader};
use qwen3_omni_train::stage::{
    BatchFeed, CheckpointTeacher, DistillSettings, Distilling, LoraSettings, OnPolicySettings, OwnAnswers,
    StoredTeacher, Teacher, lessons, teach,
};

use super::checks::StepBatches;
use super::stage::Common;
use super::{note, say};

/// Train the thinker to predict tokens as a teacher does: another checkpoint, or its stored logits.
#[derive(Args)]
#[command(
    after_help = "Example: qwen3-omni-train distill --model small --teacher big --data talks.jsonl --out run --on-policy"
)]
pub(crate) struct DistillCommand {
    #[command(flatten)]
    common: Common,
    /// Checkpoint that teaches; its vocabulary must be the student's.
    #[arg(long, required_unless_present = "teacher_logits", conflicts_with = "teacher_logits")]
    teacher: Option<PathBuf>,
    /// File of logits that `teach` stored.
    #[arg(long)]
    teacher_logits: Option<PathBuf>,
    /// Let the student answer the prompts itself, and the teacher judge every token of its answers.
    #[arg(long)]
    on_policy: bool,
    /// Train adapters (LoRA) instead of the matrices.
    #[arg(long)]
    lora: bool,
}

/// Store a teacher's best logits for every learned token of some lines, for `distill --teacher-logits`.
#[derive(Args)]
#[command(
    after_help = "Example: qwen3-omni-train teach --teacher big --data talks.jsonl --top-k 64 --out talks.safetensors"
)]
pub(crate) struct TeachCommand {
    /// Checkpoint that teaches.
    #[arg(long)]
    teacher: PathBuf,
    /// JSON lines; their files must have different names.
    #[arg(long, required = true, value_name = "FILE")]
    data: Vec<String>,
    /// Logits that are stored of each row.
    #[arg(long, default_value_t = 64)]
    top_k: usize,
    /// Safetensors file to write.
    #[arg(long)]
    out: PathBuf,
    /// Most tokens that are computed at once.
    #[arg(long, default_value_t = BatchOptions::default().tokens_per_batch)]
    tokens_per_batch: usize,
    /// Stop at the first bad line instead of counting it.
    #[arg(long)]
    strict: bool,
    /// Where to compute: cpu, wgpu or cuda:0.
    #[arg(long, default_value = "cpu")]
    device: Device,
}

impl DistillCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let defaults = DistillSettings {
            on_policy: self.on_policy.then(OnPolicySettings::default),
            lora: self.lora.then(LoraSettings::default),
            ..DistillSettings::default()
        };
        let (common, settings) = (&self.common, self.common.settings(defaults)?);
        let dtype = settings.run.dtype.into();
        let build = |on: &_| {
            // The teacher is loaded before the student.
            Distilling::check(&common.model, &settings)?;
            Distilling::trainer(&common.model, self.teacher(on, dtype)?, &settings, on)
        };
        let batches = if settings.on_policy.is_some() { StepBatches::OfAnswers } else { StepBatches::Set };
        let (trainer, device) = common.trainer(&settings, &settings.run, batches, build)?;
        let start = (trainer, &device);
        if settings.on_policy.is_none() {
            let on = device.clone().autodiff();
            return common.train(&settings, &settings.run, start, |state| {
                let batches = common.batches(&settings.run, false, true, state)?;
                Ok(BatchFeed::new(batches, settings.run.batches_per_step, move |batch| Ok(lessons(batch, &on))))
            });
        }
        common.train_on_answers(&settings, &settings.run, start, |place, sources, state| {
            OwnAnswers::start(place, sources, &settings, common.device().clone(), state)
        })
    }

    fn teacher(&self, device: &burn::tensor::Device, dtype: Dtype) -> Result<Box<dyn Teacher>> {
        let student = &self.common.model;
        Ok(match (&self.teacher, &self.teacher_logits) {
            (Some(directory), _) => Box::new(CheckpointTeacher::open(directory, student, device, dtype)?),
            (None, Some(file)) => Box::new(StoredTeacher::open(file, student, device)?),
            (None, None) => unreachable!("one of both is required"),
        })
    }
}

impl TeachCommand {
    pub(crate) fn run(&self) -> Result<bool> {
        let device = self.device.open()?;
        let reader = SampleReader::open(&self.teacher, SampleOptions::default())?;
        let options = BatchOptions::default().shuffle(false).epochs(1).strict(self.strict);
        let options = options.tokens_per_batch(self.tokens_per_batch);
        // One source, since several end with the first that does.
        let source = DataSource::open("lines", &self.data)?;
        let mut batches = Batches::start(vec![source], reader, options, None)?;
        let teacher = CheckpointTeacher::to_store(&self.teacher, self.top_k, &device, Dtype::F32)?;
        let mut stored = 0;
        let told = &mut |lines| {
            stored += 1;
            if stored < 10 || stored % 10 == 0 {
                note(format_args!("{lines} lines"));
            }
        };
        let lines = teach((&teacher, &self.teacher), batches.by_ref(), &device, self.top_k, &self.out, told)?;
        let dropped: Vec<String> = batches
            .sources()
            .filter(|(_, read)| read.bad + read.too_long > 0)
            .map(|(source, read)| format!("{}: {} bad, {} too long", source.name(), read.bad, read.too_long))
            .collect();
        dropped.iter().for_each(|dropped| note(format_args!("dropped lines of {dropped}")));
        note(format_args!("{lines} lines stored"));
        say(format_args!("{}", self.out.display()));
        Ok(true)
    }
}
