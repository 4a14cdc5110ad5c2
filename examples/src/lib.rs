//! What the examples share: flags, loading with a progress bar, and showing one answer.
#![allow(clippy::print_stdout, clippy::print_stderr)] // Examples own the terminal.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qwen3_omni::{
    Device, Dtype, Event, GenerateOptions, Message, Omni, OmniBuilder, PartTokens, Place, Reply, Result, WavFile,
};

/// Flags of every chatting example.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Checkpoint directory in Hugging Face layout; the built-in nano model if not given
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// cpu, wgpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// f32, bf16 or f16; if not given, bf16 on cuda, f32 on wgpu, and on cpu bf16 if the checkpoint is
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// Voice, by name
    #[arg(long)]
    pub speaker: Option<String>,
    /// Seed of the speech's draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Speak greedily: the same speech whatever the seed
    #[arg(long)]
    pub greedy: bool,
    /// Write only, do not speak
    #[arg(long)]
    pub text_only: bool,
    /// Where the spoken answer goes
    #[arg(long, default_value = "reply.wav")]
    pub out: PathBuf,
}

const NANO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/nano");

const NANO_NOTICE: &str = "\
Model: nano (built in). It shows that everything works; it knows a world of 50 spoken words and no more:
  what is seven plus five   (sums and differences of number words, up to eighteen; typed or spoken)
  plus one                  (after a sum; or: repeat that)
  repeat red cat nine       (one to three of its words)
  what do you see           (one or two coloured shapes in a small picture)
Its voice is rough. Real ability comes with a real checkpoint: --model DIR
";

/// A file that comes with the repository: spoken questions, pictures and a clip from nano's world.
pub fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/nano-samples").join(name)
}

impl Flags {
    /// How the answer is to be made.
    pub fn options(&self) -> GenerateOptions {
        let mut options = GenerateOptions::default().seed(self.seed);
        options.speaker = self.speaker.clone();
        if self.greedy {
            options = options.greedy();
        }
        if self.text_only {
            options = options.text_only();
        }
        options
    }

    /// The checkpoint directory.
    pub fn directory(&self) -> PathBuf {
        self.model.clone().unwrap_or_else(|| NANO.into())
    }

    /// Loads the model with a progress bar, and says which one it is.
    ///
    /// # Errors
    /// The errors of [`qwen3_omni::OmniBuilder::load`].
    pub fn load(&self) -> Result<Omni> {
        self.load_with(|builder| builder)
    }

    /// Place of a part that is loaded on its own, computing in f32.
    ///
    /// # Errors
    /// The errors of [`Device::place`].
    pub fn place(&self) -> Result<Place> {
        self.device.place(Dtype::F32)
    }

    /// Loads the model with further settings; see [`Flags::load`].
    ///
    /// # Errors
    /// The errors of [`qwen3_omni::OmniBuilder::load`].
    pub fn load_with(&self, settings: impl FnOnce(OmniBuilder) -> OmniBuilder) -> Result<Omni> {
        let directory = self.directory();
        if self.model.is_none() {
            eprintln!("{NANO_NOTICE}");
        }
        let started = Instant::now();
        let style = ProgressStyle::with_template("loading {bar:40} {bytes}/{total_bytes}").expect("a valid template");
        let bar = ProgressBar::new(0).with_style(style);
        let shown = bar.clone();
        let mut builder = Omni::builder(&directory).device(self.device.clone()).progress(move |loading| {
            shown.set_length(loading.total as u64);
            shown.set_position(loading.bytes as u64);
        });
        if let Some(dtype) = self.dtype {
            builder = builder.dtype(dtype);
        }
        if self.text_only {
            builder = builder.text_only();
        }
        let omni = settings(builder).load();
        bar.finish_and_clear();
        let omni = omni?;
        eprintln!("loaded {} on {} in {:.2} s\n", directory.display(), self.device, started.elapsed().as_secs_f64());
        Ok(omni)
    }
}

/// Ends a program: an error goes to the terminal and into the exit code.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Streams one answer: text to the screen, sound into a WAV file, then the times of each stage.
///
/// # Errors
/// The errors of [`Omni::stream`], or if the file cannot be written.
pub fn answer(omni: &Omni, chat: &[Message], options: &GenerateOptions, out: &Path) -> Result<Reply> {
    let prompt = omni.prompt(chat, options)?;
    if prompt.has_media() {
        for PartTokens { message, part, kind, tokens } in prompt.parts() {
            eprintln!("message {message}, part {part} ({}): {tokens} tokens", kind.name());
        }
    }
    let events = omni.stream_prompt(prompt)?;
    let speaks = omni.speaks() && options.speech != Some(false);
    // Started before the answer, so that no answer is lost to an unwritable path.
    let mut file = speaks.then(|| WavFile::create(out, omni.sample_rate())).transpose()?;
    let mut spoken = Duration::ZERO;
    for event in events {
        match event? {
            Event::Thinking(piece) => eprint!("{piece}"),
            Event::Text(piece) => {
                print!("{piece}");
                // A terminal that is gone is no reason to stop.
                let _ = std::io::stdout().flush();
            }
            Event::Audio(sound) => {
                spoken += sound.duration();
                if let Some(file) = &mut file {
                    file.write(&sound.samples)?;
                }
            }
            Event::Done(reply) => {
                println!();
                match (&reply.speech, file.take()) {
                    (Some(_), Some(file)) => {
                        file.finish()?;
                        eprintln!("spoken into {} ({:.2} s)", out.display(), spoken.as_secs_f64());
                    }
                    (None, Some(_)) => eprintln!("nothing to say: no sound was written"),
                    _ => {}
                }
                eprintln!("{}\n{}", reply.usage, reply.timings);
                return Ok(*reply);
            }
            _ => {}
        }
    }
    unreachable!("a stream ends with an error or with `Done`")
}

/// The programs of the README and the book.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/src/voice-assistant.md")]
    struct VoiceAssistant;
    #[doc = include_str!("../../docs/src/web-server.md")]
    struct WebServer;
    #[doc = include_str!("../../docs/src/tools-and-json.md")]
    struct ToolsAndJson;
}
