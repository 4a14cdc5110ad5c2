//! The files beside the weights, read as loading reads them.

use omni_core::{Error, Result};
use serde_json::json;

use super::{model_files::OmniCheckpoint, token_check};
use crate::model::{GenerationConfig, image_bounds};
use crate::prompt::{ChatTemplate, TemplateOptions, Tokenizer};

impl OmniCheckpoint {
    /// Reads tokenizer, chat template and settings as loading does, and renders a message; returns the error of each that fails.
    pub fn companion_faults(&self) -> Vec<Error> {
        let (directory, config) = (self.directory(), self.config());
        let tokenizer = || token_check::check(config, &Tokenizer::from_directory(directory)?);
        let generation = || GenerationConfig::read(directory, config).map(drop);
        let results = [tokenizer(), self.render_greeting(), generation(), image_bounds(directory).map(drop)];
        results.into_iter().filter_map(Result::err).collect()
    }

    fn render_greeting(&self) -> Result<()> {
        let options = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
        let message = json!([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]);
        match ChatTemplate::from_directory(self.directory())?.render(&message, &options)?.contains("Hello") {
            true => Ok(()),
            false => Err(Error::config("the chat template leaves out the text of a message")),
        }
    }
}
