//! The program's work: reading a suite, asking it, and what is told of it.

mod arguments;

pub use arguments::Arguments;

use std::fs;

use indicatif::{ProgressBar, ProgressStyle};
use qwen3_omni::{AutOptions, AutRecogniser, Dtype, GenerateOptions, Omni};
use qwen3_omni_eval::normalise::Normaliser;
use qwen3_omni_eval::{
    AutClipRecogniser, Codec, CommandRecogniser, Error, Evaluation, Item, ItemsFile, ModelRecogniser, Outcomes,
    Recogniser, Report, Result, Settings, Suite, Task,
};

impl Arguments {
    /// Measures a suite and returns what is printed.
    pub fn run(&self) -> Result<String> {
        self.check()?;
        let mut items = self.suite.read(&self.data, &self.reading())?;
        items.truncate(self.limit.unwrap_or(usize::MAX));
        self.check_words(&items)?;
        let settings = self.settings(&items)?;
        // Before the model is loaded, so that a mistake is told at once.
        let mut file = match &self.items {
            Some(path) => ItemsFile::open(path, &settings)?,
            None => ItemsFile::in_memory(),
        };
        let outcomes = self.ask(&items, &mut file)?;
        let report = Report::new(self.suite, settings, &outcomes);
        Ok(match self.json {
            true => format!("{:#}", serde_json::json!(report)),
            false => report.to_string(),
        })
    }

    fn ask(&self, items: &[Item], file: &mut ItemsFile) -> Result<Outcomes> {
        if let Some(folder) = &self.speech {
            fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.clone(), source })?;
        }
        let codec = self
            .codec
            .as_ref()
            .map(|mimi| Codec::open(mimi, &self.model_directory()?, &self.device.place(Dtype::F32)?));
        let codec = codec.transpose()?;
        let omni = self.needs_model().then(|| self.load()).transpose()?;
        let recogniser = self.recogniser(omni.as_ref(), items)?;
        let prompt = self.prompt();
        let options = self.options();
        let evaluation = Evaluation {
            omni: omni.as_ref(),
            recogniser: recogniser.as_deref(),
            codec: codec.as_ref(),
            prompt: &prompt,
            options: &options,
            speech: self.speech.as_deref(),
            sessions: self.sessions.into(),
        };
        let template = "{bar:40} {pos}/{len} {msg}";
        let bar =
            ProgressBar::new(items.len() as u64).with_style(ProgressStyle::with_template(template).expect("valid"));
        bar.set_position(file.len().min(items.len()) as u64);
        let outcomes = evaluation.run(items, file, &mut |outcome| {
            bar.set_message(outcome.id.clone());
            bar.inc(1);
        });
        bar.finish_and_clear();
        outcomes
    }

    /// Refuses recordings without words where nothing else could be compared.
    fn check_words(&self, items: &[Item]) -> Result<()> {
        let is_wordless = |item: &&Item| matches!(&item.task, Task::Transcribe { text, .. } if text.trim().is_empty());
        match items.iter().find(is_wordless).filter(|_| self.suite == Suite::Waves && self.codec.is_none()) {
            Some(Item { id, .. }) => {
                let reason = format!("`{id}` has no words: expected them in a text file beside it, or --codec");
                Err(Error::Request(reason))
            }
            None => Ok(()),
        }
    }

    fn load(&self) -> Result<Omni> {
        let mut builder = Omni::builder(self.model_directory()?).device(self.device.clone());
        builder = builder.max_answers(2 * usize::from(self.sessions));
        for adapter in &self.adapter {
            builder = builder.adapter(adapter);
        }
        if let Some(dtype) = self.dtype {
            builder = builder.dtype(dtype);
        }
        if let Some(threads) = self.threads {
            builder = builder.threads(threads.into());
        }
        if !self.suite.is_spoken() {
            builder = builder.text_only();
        }
        if !self.suite.is_heard() && !self.model_hears() {
            builder = builder.without_media();
        }
        Ok(builder.load()?)
    }

    fn recogniser(&self, omni: Option<&Omni>, items: &[Item]) -> Result<Option<Box<dyn Recogniser>>> {
        if let Some(command) = &self.recogniser {
            return Ok(Some(Box::new(CommandRecogniser::new(command)?)));
        }
        if let Some(directory) = &self.aut {
            let aut = AutRecogniser::open(directory, &self.device, self.dtype)?;
            return Ok(Some(Box::new(AutClipRecogniser::new(aut, self.aut_options(items)?))));
        }
        let hears = |omni: &Omni| -> Box<dyn Recogniser> {
            let recogniser = ModelRecogniser::new(omni.clone(), self.transcribe_prompt(items), self.options());
            Box::new(recogniser.prefix(self.transcript_prefix.clone()))
        };
        Ok(omni.filter(|_| self.model_hears()).map(hears))
    }

    fn options(&self) -> GenerateOptions {
        let mut options = GenerateOptions::default()
            .max_new_tokens(self.max_tokens())
            .seed(self.seed)
            .greedy_speech(self.greedy_speech);
        options.speaker = self.speaker.clone();
        if let Some(temperature) = self.temperature {
            options.thinker = options.thinker.sampled().temperature(temperature);
        }
        options
    }

    fn prompt(&self) -> String {
        self.prompt.clone().unwrap_or_else(|| self.suite.prompt().into())
    }

    fn aut_options(&self, items: &[Item]) -> Result<AutOptions> {
        let own = || Ok(self.suite.aut_prompt(normaliser(items)));
        let options = AutOptions::default().prompt(self.transcribe.as_ref().map_or_else(own, |text| text.parse())?);
        Ok(match self.beam {
            Some(beam) => options.beam(beam.into()),
            None => options,
        })
    }

    fn transcribe_prompt(&self, items: &[Item]) -> String {
        self.transcribe.clone().unwrap_or_else(|| self.suite.transcribe_prompt(normaliser(items)).into())
    }

    fn settings(&self, items: &[Item]) -> Result<Settings> {
        let data = fs::canonicalize(&self.data).map_err(|source| Error::Io { path: self.data.clone(), source })?;
        let mut settings = Settings::default()
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("suite", self.suite.name())
            .with("data", data.to_string_lossy())
            .with("split", self.split.clone())
            .with("language", self.language.clone())
            .with("seed", self.seed);
        if self.needs_model() {
            settings = settings
                .with_model(&self.model_directory()?)?
                .with_adapters(&self.adapter)?
                .with("device", self.device.to_string())
                .with("dtype", self.dtype.map(|dtype| format!("{dtype:?}").to_lowercase()))
                .with("prompt", self.prompt())
                .with("max_tokens", self.max_tokens())
                .with("temperature", self.temperature);
        }
        if let Some(mimi) = &self.codec {
            settings = settings
                .with_model(&self.model_directory()?)?
                .with_directory("codec", mimi)?
                .with("device", self.device.to_string());
        }
        if self.suite.is_spoken() {
            settings = settings.with("speaker", self.speaker.clone()).with("greedy_speech", self.greedy_speech);
        }
        if let Some(directory) = &self.aut {
            let options = self.aut_options(items)?;
            settings = settings
                .with_directory("aut", directory)?
                .with("aut_prompt", options.prompt.to_string().trim())
                .with("beam", options.beam)
                .with("device", self.device.to_string())
                .with("dtype", self.dtype.map(|dtype| format!("{dtype:?}").to_lowercase()));
        }
        Ok(match &self.recogniser {
            Some(command) => settings.with("recogniser", command.as_str()),
            None if self.model_hears() => settings
                .with("transcribe", self.transcribe_prompt(items))
                .with("transcript_prefix", self.transcript_prefix.as_str()),
            None => settings,
        })
    }
}

/// How the texts of a suite are compared.
fn normaliser(items: &[Item]) -> Normaliser {
    match items.first().map(|item| &item.task) {
        Some(Task::Transcribe { normaliser, .. } | Task::Speak { normaliser, .. }) => *normaliser,
        _ => Normaliser::English,
    }
}
