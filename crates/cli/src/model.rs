//! Which model answers, and where.

use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qwen3_omni::{Device, Dtype, Omni, OmniBuilder, Result};

/// Flags that choose and place the model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArguments {
    /// Checkpoint directory in Hugging Face layout; without one, nano, the toy model inside this program
    #[arg(long, value_name = "DIR", env = "QWEN3_OMNI_MODEL", hide_env_values = true)]
    model: Option<PathBuf>,
    /// Adapter (LoRA) in PEFT's form, merged while loading; may be repeated
    #[arg(long, value_name = "DIR", requires = "model")]
    adapter: Vec<PathBuf>,
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16 or f16 [default: bf16 on cuda, f32 on wgpu, and on cpu bf16 if the checkpoint is]
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Threads on the CPU [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[cfg(feature = "nano")]
const NANO: &str = "nano answers, a toy model that knows 100 words (\"what is seven plus five\", \"repeat red cat nine\"): \
                    --model or QWEN3_OMNI_MODEL names a real one";

impl ModelArguments {
    /// Whether the toy model inside the program answers.
    pub fn is_nano(&self) -> bool {
        self.model.is_none()
    }

    /// Loads the model with a progress bar, and says so if it is the toy. `speaks` loads what makes speech.
    ///
    /// # Errors
    /// The errors of [`qwen3_omni::OmniBuilder::load`].
    pub fn load(&self, speaks: bool) -> Result<Omni> {
        let builder = self.builder()?;
        load(if speaks { builder } else { builder.text_only() })
    }

    /// Loads the model as [`ModelArguments::load`] does, for this many answers at once.
    ///
    /// # Errors
    /// The errors of [`qwen3_omni::OmniBuilder::load`].
    #[cfg(feature = "serve")]
    pub fn load_for(&self, answers: usize) -> Result<Omni> {
        load(self.builder()?.max_answers(answers))
    }

    /// Name of the model: that of its directory.
    #[cfg(feature = "serve")]
    pub fn name(&self) -> String {
        let directory = self.model.as_ref().and_then(|path| path.canonicalize().ok());
        let name = directory.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        name.unwrap_or_else(|| if self.is_nano() { "nano" } else { "qwen3-omni" }.to_owned())
    }

    fn builder(&self) -> Result<OmniBuilder> {
        let directory = self.model.clone().map_or_else(built_in, Ok)?;
        let builder = Omni::builder(directory).device(self.device.clone());
        let mut builder = self.adapter.iter().fold(builder, OmniBuilder::adapter);
        if let Some(dtype) = self.dtype {
            builder = builder.dtype(dtype);
        }
        Ok(match self.threads {
            Some(threads) => builder.threads(threads.into()),
            None => builder,
        })
    }
}

fn load(builder: OmniBuilder) -> Result<Omni> {
    let template = "loading {bar:40} {bytes}/{total_bytes}";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(template).expect("a valid template"));
    let shown = bar.clone();
    let builder = builder.progress(move |loading| {
        shown.set_length(loading.total as u64);
        shown.set_position(loading.bytes as u64);
    });
    let omni = builder.load();
    bar.finish_and_clear();
    omni
}

#[cfg(feature = "nano")]
fn built_in() -> Result<PathBuf> {
    weights_tools::commands::note(NANO);
    crate::nano::directory()
}

#[cfg(not(feature = "nano"))]
fn built_in() -> Result<PathBuf> {
    let reason = "no model: --model or QWEN3_OMNI_MODEL names a checkpoint directory";
    Err(qwen3_omni::Error::Request(reason.into()))
}
