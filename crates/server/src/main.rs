//! The server alone, without the other commands of `qwen3-omni`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qwen3_omni::{Device, Dtype, Omni};
use qwen3_omni_server::program::ServeArguments;

/// Qwen3-Omni behind HTTP and WebSockets, in the form of OpenAI's API
#[derive(Parser)]
#[command(name = "qwen3-omni-server", version)]
#[command(after_help = "Example: qwen3-omni-server --model /models/Qwen3-Omni-30B-A3B-Instruct --device cuda")]
struct Arguments {
    /// Checkpoint directory in Hugging Face layout
    #[arg(long, value_name = "DIR", env = "QWEN3_OMNI_MODEL", hide_env_values = true)]
    model: PathBuf,
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// f32, bf16 or f16 [default: bf16 on cuda, f32 on wgpu, and on cpu bf16 if the checkpoint is]
    #[arg(long)]
    dtype: Option<Dtype>,
    #[command(flatten)]
    serve: ServeArguments,
}

fn main() -> ExitCode {
    let Arguments { model, device, dtype, serve } = Arguments::parse();
    serve.show_logs();
    let name = model.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut builder = Omni::builder(model).device(device).max_answers(serve.model_answers());
    if let Some(dtype) = dtype {
        builder = builder.dtype(dtype);
    }
    let told = |address| tracing::info!("listening at http://{address}");
    match serve.run(name.as_deref().unwrap_or("qwen3-omni"), || builder.load(), told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
