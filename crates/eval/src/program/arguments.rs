use std::path::PathBuf;

use clap::Parser;
use qwen3_omni::{Device, Dtype};
use qwen3_omni_eval::{Error, ReadOptions, Result, Suite};

/// Measure how good a model is: error rates of transcripts and speech, shares of right answers
#[derive(Debug, Parser)]
#[command(name = "qwen3-omni-eval", version)]
#[command(after_help = "Example: qwen3-omni-eval librispeech --data LibriSpeech --split test-clean \
    --model /models/Qwen3-Omni-30B-A3B-Instruct --items clean.jsonl\n\n\
    The same command goes on where it was stopped, if --items names a file. RUST_LOG=debug tells more.")]
pub struct Arguments {
    /// librispeech, fleurs, wenetspeech, gtzan, choice, gpqa, aime, zebra, seed-tts or waves
    pub suite: Suite,
    /// The suite's folder, or its list
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Part of the suite: a folder of LibriSpeech, a list of FLEURS [default: test], a subset of WenetSpeech [default: TEST_NET]
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Language as a code, en or zh [default: what the folder's name tells, or the suite's own]
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,
    /// Ask only the first items
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// File of items, one a line, which is continued if it is there
    #[arg(long, value_name = "FILE.jsonl")]
    pub items: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,

    /// Checkpoint directory in Hugging Face layout
    #[arg(long, value_name = "DIR", env = "QWEN3_OMNI_MODEL", hide_env_values = true, help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// Adapter (LoRA) in PEFT's form, merged while loading; may be repeated
    #[arg(long, value_name = "DIR", requires = "model", help_heading = "Model")]
    pub adapter: Vec<PathBuf>,
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", help_heading = "Model")]
    pub device: Device,
    /// f32, bf16 or f16 [default: bf16 on cuda, f32 on wgpu, and on cpu bf16 if the checkpoint is]
    #[arg(long, help_heading = "Model")]
    pub dtype: Option<Dtype>,
    /// Threads on the CPU [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model")]
    pub threads: Option<u16>,
    /// Items that are asked at once, in one batch where the device allows it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model")]
    pub sessions: u16,

    /// Prompt of questions and of reading aloud, with {question}, {options} and {text} [default: the suite's]
    #[arg(long, value_name = "TEXT", help_heading = "Answers")]
    pub prompt: Option<String>,
    /// Most tokens of an answer [default: 32768 for gpqa, aime and zebra, which are thought about, else 1024]
    #[arg(long, value_name = "N", help_heading = "Answers")]
    pub max_tokens: Option<usize>,
    /// Draw the text, with this temperature; without it the likeliest word is taken
    #[arg(long, value_name = "T", help_heading = "Answers")]
    pub temperature: Option<f32>,
    /// Seed of what is drawn, and of the order of options
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Answers")]
    pub seed: u64,
    /// Voice that reads aloud, by name
    #[arg(long, value_name = "NAME", help_heading = "Answers")]
    pub speaker: Option<String>,
    /// Speak greedily: the same speech whatever the seed
    #[arg(long, help_heading = "Answers")]
    pub greedy_speech: bool,
    /// Keep what is spoken in this folder
    #[arg(long, value_name = "DIR", help_heading = "Answers")]
    pub speech: Option<PathBuf>,

    /// Program that prints what is said in {wav}, instead of the model
    #[arg(long, value_name = "COMMAND", help_heading = "Transcripts")]
    pub recogniser: Option<String>,
    /// Folder of an audio encoder with a text decoder (aut-decoder.safetensors), which recognises instead of the model
    #[arg(long, value_name = "DIR", conflicts_with = "recogniser", help_heading = "Transcripts")]
    pub aut: Option<PathBuf>,
    /// Texts that it pursues at once; 1 takes the likeliest token each time [default: 4]
    #[arg(long, value_name = "N", requires = "aut", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = "Transcripts")]
    pub beam: Option<u16>,
    /// What the model is asked behind a recording; empty for nothing; with --aut a task and a language, as
    /// "transcribe english" [default: the suite's]
    #[arg(long, value_name = "TEXT", help_heading = "Transcripts")]
    pub transcribe: Option<String>,
    /// Checkpoint of Mimi: recordings are heard as they are, and after their codes were made sound by the model's vocoder
    #[arg(long, value_name = "DIR", help_heading = "Transcripts")]
    pub codec: Option<PathBuf>,
    /// Words that the model says before each transcript
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = "Transcripts")]
    pub transcript_prefix: String,
}

impl Arguments {
    /// How the suite's files are read.
    pub fn reading(&self) -> ReadOptions {
        ReadOptions { split: self.split.clone(), language: self.language.clone(), seed: self.seed }
    }

    /// Whether a model is to be loaded.
    pub fn needs_model(&self) -> bool {
        !self.suite.is_transcribed() || self.is_own_recogniser()
    }

    /// Whether the model itself puts sound into words.
    pub fn model_hears(&self) -> bool {
        (self.suite.is_transcribed() || self.suite.is_spoken()) && self.is_own_recogniser()
    }

    /// Whether nothing else hears what the model would.
    fn is_own_recogniser(&self) -> bool {
        self.recogniser.is_none() && self.aut.is_none()
    }

    /// Most tokens of an answer.
    pub fn max_tokens(&self) -> usize {
        let is_thought_about = matches!(self.suite, Suite::Gpqa | Suite::Aime | Suite::Zebra);
        self.max_tokens.unwrap_or(if is_thought_about { 32_768 } else { 1024 })
    }

    /// The directory of the model.
    pub fn model_directory(&self) -> Result<PathBuf> {
        let missing = || Error::Request("no model: --model or QWEN3_OMNI_MODEL names a checkpoint directory".into());
        self.model.clone().ok_or_else(missing)
    }

    /// Refuses flags that would do nothing.
    pub fn check(&self) -> Result<()> {
        let suite = self.suite;
        let hears = suite.is_transcribed() || suite.is_spoken();
        let idle = [
            ("--prompt", self.prompt.is_some() && suite.is_transcribed(), "--transcribe is what it takes"),
            (
                "--transcribe",
                self.transcribe.is_some() && !(self.model_hears() || self.aut.is_some()),
                "no model transcribes",
            ),
            ("--transcript-prefix", !self.transcript_prefix.is_empty() && !self.model_hears(), "no model transcribes"),
            ("--codec", self.codec.is_some() && !suite.is_transcribed(), "no recording is transcribed"),
            ("--adapter", !self.adapter.is_empty() && !self.needs_model(), "no model is loaded"),
            ("--adapter", !self.adapter.is_empty() && self.codec.is_some(), "the codec's vocoder takes none"),
            ("--recogniser", self.recogniser.is_some() && !hears, "nothing is transcribed"),
            ("--aut", self.aut.is_some() && !hears, "nothing is transcribed"),
            ("--speaker", self.speaker.is_some() && !suite.is_spoken(), "nothing is spoken"),
            ("--greedy-speech", self.greedy_speech && !suite.is_spoken(), "nothing is spoken"),
            ("--speech", self.speech.is_some() && !suite.is_spoken(), "nothing is spoken"),
        ];
        match idle.iter().find(|(_, is_idle, _)| *is_idle) {
            Some((flag, _, reason)) => Err(Error::Request(format!("{flag} does nothing with {suite}: {reason}"))),
            None => Ok(()),
        }
    }
}
