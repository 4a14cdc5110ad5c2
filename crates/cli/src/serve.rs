//! A server.

use std::process::ExitCode;

use clap::Args;
use qwen3_omni::Result;
use server::program::ServeArguments;
use weights_tools::commands::note;

use crate::model::ModelArguments;
use crate::say;

/// What nano was taught to answer with what it heard.
const NANO_TRANSCRIBES: &str = "what did i say";

/// Serve the model over HTTP and WebSockets in the form of OpenAI's API, with a page to talk to it
#[derive(Debug, Args)]
#[command(after_help = "Example: qwen3-omni serve --model /models/Qwen3-Omni-30B-A3B-Instruct\n\n\
    Then open http://127.0.0.1:8000/, or point an OpenAI client at http://127.0.0.1:8000/v1.")]
pub struct Serve {
    #[command(flatten)]
    server: ServeArguments,
    #[command(flatten)]
    model: ModelArguments,
}

impl Serve {
    /// Writes the server's log.
    pub fn show_logs(&self) {
        self.server.show_logs();
    }

    /// Serves until it is stopped.
    pub fn run(self) -> Result<ExitCode> {
        let Self { mut server, model } = self;
        if model.is_nano() {
            server = server.usual_prompts(NANO_TRANSCRIBES, say::REPEAT);
        }
        let (name, answers) = (model.name(), server.model_answers());
        let told =
            |address| note(format_args!("{name} answers at http://{address}/ (the page) and http://{address}/v1"));
        server.run(&name, move || model.load_for(answers), told)?;
        Ok(ExitCode::SUCCESS)
    }
}
