//! One answer: its options, its stream, and what is told of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use qwen3_omni::{Canceller, Error, Event, FinishReason, GenerateOptions, Message, Omni, Reply, Result, SpeechFinish};
use serde_json::{Value, json};
use weights_tools::commands::interrupt::Busy;
use weights_tools::commands::{Output, note};

use crate::speech::{Speech, SpeechArguments, Spoken};

/// Flags of an answer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Answer")]
pub struct AnswerArguments {
    /// Instructions for the model
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of text
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
    /// Draw the text, with this temperature; without it the likeliest word is taken
    #[arg(long, value_name = "T", conflicts_with = "greedy", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Speak greedily, too: the same speech whatever the seed
    #[arg(long)]
    greedy: bool,
    /// Seed of what is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Hear the sound of videos
    #[arg(long)]
    audio_in_video: bool,
    /// Counts and times on standard error
    #[arg(long, short)]
    verbose: bool,
}

impl AnswerArguments {
    /// The messages before the first question.
    pub fn opening(&self) -> Vec<Message> {
        self.system.iter().map(Message::system).collect()
    }

    /// Whether counts and times are told.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// The options of an answer that is spoken as `speech` says.
    pub fn options(&self, speech: &SpeechArguments, is_nano: bool) -> GenerateOptions {
        let mut options = GenerateOptions::default()
            .max_new_tokens(self.max_tokens)
            .seed(self.seed)
            .speech(speech.is_wanted())
            .audio_in_video(self.audio_in_video);
        options.speaker = speech.speaker.clone();
        if let Some(temperature) = self.temperature {
            options.thinker = options.thinker.sampled().temperature(temperature).seed(self.seed);
        }
        if is_nano {
            // It learnt from pictures of 96 × 96 pixels.
            options.video.bounds.min = 4096;
        }
        if self.greedy { options.greedy() } else { options }
    }
}

/// A finished answer.
pub struct Answered {
    /// The answer.
    pub reply: Reply,
    /// Its speech, if there was any.
    pub spoken: Option<Spoken>,
    /// Whether Ctrl-C cancelled it.
    pub is_interrupted: bool,
}

/// Answers a conversation: text goes to `out` if there is one, speech where the flags say.
///
/// # Errors
/// The errors of [`Omni::prompt`] and of the stream, or if speech cannot be written.
pub fn answer(
    omni: &Omni,
    chat: &[Message],
    options: &GenerateOptions,
    speech: &SpeechArguments,
    out: Option<&Output>,
) -> Result<Answered> {
    let prompt = omni.prompt(chat, options)?;
    // Opened before the answer, so that none is lost to an unwritable path.
    let speech = speech.open(omni, speech.out.as_deref())?;
    let events = omni.stream_prompt(prompt)?;
    let canceller = events.canceller();
    stream(events, &canceller, speech, out)
}

/// Hands out the events of an answer until its end; the first Ctrl-C cancels it.
///
/// # Errors
/// The errors of the stream, or if speech cannot be written.
pub fn stream(
    events: impl Iterator<Item = Result<Event>>,
    canceller: &Canceller,
    mut speech: Speech,
    out: Option<&Output>,
) -> Result<Answered> {
    let busy = Busy::begin()?;
    let reply = while_watched(&busy, canceller, || drain(events, canceller, &mut speech, out))?;
    let spoken = speech.finish(&|| busy.is_asked())?;
    Ok(Answered { reply, spoken, is_interrupted: busy.is_asked() })
}

/// Runs `work` while another thread waits for Ctrl-C.
fn while_watched<T>(busy: &Busy, canceller: &Canceller, work: impl FnOnce() -> T) -> T {
    const TICK: Duration = Duration::from_millis(20);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) && !busy.is_asked() {
                thread::park_timeout(TICK);
            }
            if busy.is_asked() {
                canceller.cancel();
            }
        });
        let _over = Over { is_over: &is_over, watcher: watcher.thread().clone() };
        work()
    })
}

/// Sends the watcher home when the work ends, by a panic too.
struct Over<'a> {
    is_over: &'a AtomicBool,
    watcher: thread::Thread,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.watcher.unpark();
    }
}

fn drain(
    events: impl Iterator<Item = Result<Event>>,
    canceller: &Canceller,
    speech: &mut Speech,
    out: Option<&Output>,
) -> Result<Reply> {
    for event in events {
        match event? {
            Event::Thinking(piece) => tell_thought(&piece),
            Event::Text(piece) => {
                if let Some(out) = out {
                    out.text(piece);
                    // Nobody reads on.
                    if !out.is_open() && speech.is_silent() {
                        canceller.cancel();
                    }
                }
            }
            Event::Audio(audio) => speech.write(&audio)?,
            Event::Done(reply) => {
                if let Some(out) = out {
                    out.line("");
                }
                return Ok(*reply);
            }
            _ => {}
        }
    }
    Err(Error::Cancelled)
}

/// Thinking text does not belong to the answer, so it goes to standard error.
fn tell_thought(piece: &str) {
    use std::io::Write;
    let _ = write!(std::io::stderr(), "{piece}");
}

impl Answered {
    /// Tells counts, times and where the speech is.
    pub fn tell(&self, is_verbose: bool) {
        if let Some(Spoken { duration, file: Some(file) }) = &self.spoken {
            note(format_args!("spoken into {} ({:.2} s)", file.display(), duration.as_secs_f64()));
        }
        if is_verbose {
            note(format_args!("{}\n{}", self.reply.usage, self.reply.timings));
        }
        use SpeechFinish::{Limit, Loop, Overrun};
        if let Some(Limit | Loop | Overrun) = self.reply.speech.as_ref().map(|speech| speech.finish_reason) {
            note("warning: the voice lost its way, and the speech was cut off");
        }
        match self.reply.finish_reason {
            FinishReason::Limit => note("the answer was cut off at --max-tokens"),
            FinishReason::Context => note("the answer was cut off: the context of the model is full"),
            _ => {}
        }
    }

    /// The answer for a script.
    pub fn to_json(&self) -> Value {
        let speech = self.spoken.as_ref().map(|spoken| {
            let reason = self.reply.speech.as_ref().map(|speech| speech.finish_reason);
            json!({"file": spoken.file, "seconds": spoken.duration.as_secs_f64(), "finish_reason": reason})
        });
        json!({
            "text": self.reply.text,
            "thinking": self.reply.thinking,
            "finish_reason": self.reply.finish_reason,
            "speech": speech,
            "usage": self.reply.usage,
            "timings": self.reply.timings,
        })
    }
}
