//! A conversation in real time: it listens while you speak, answers at once, and can be interrupted.
//!
//! Recordings stand in for the microphone and a WAV file for the speakers, both at the pace of real time. With the feature
//! `live` it uses the machine's own.
//!
//! ```sh
//! cargo run --release --example realtime                                  # two spoken questions, one after the other
//! cargo run --release --example realtime -- --interrupt-at 0.3            # interrupts the first answer
//! cargo run --release --example realtime -- mine.wav --chunk-ramp 1,4 --device wgpu --model path/to/model
//! cargo run --release --example realtime --features live -- --live        # microphone and speakers
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)] // Examples own the terminal.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::ProgressBar;
use qwen3_omni::media::MediaError;
use qwen3_omni::media::audio::{AudioInput, Resampler, SAMPLE_RATE, read};
use qwen3_omni::{
    AudioTurn, ChunkRamp, Error, Event, GenerateOptions, MelNorm, Omni, Reply, Result, Session, WavFile, code2wav,
};
use qwen3_omni_examples::{Flags, exit, sample};

/// Talk in real time
#[derive(Parser)]
struct Arguments {
    /// What is said, one recording per turn; two spoken questions if none is given
    files: Vec<PathBuf>,
    /// Interrupt when this many seconds of the first answer have been played
    #[arg(long)]
    interrupt_at: Option<f64>,
    /// Frames of the first piece of sound, and of the longest: they double in between
    #[arg(long, value_parser = ramp, default_value = "1,8")]
    chunk_ramp: ChunkRamp,
    /// Normalise mel frames by the loudest so far, and prefill nothing twice
    #[arg(long)]
    mel_norm_so_far: bool,
    /// Use the machine's microphone and speakers
    #[cfg(feature = "live")]
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    flags: Flags,
}

fn ramp(text: &str) -> std::result::Result<ChunkRamp, String> {
    let wrong = || format!("`{text}` is not two numbers of frames like 1,8");
    let (first, most) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().ok().filter(|frames| *frames > 0).ok_or_else(wrong);
    Ok(ChunkRamp { first: number(first)?, most: number(most)? })
}

/// Where a turn's sound comes from.
trait Microphone {
    /// The next piece of one channel and its rate; `None` when the turn has ended. Waits as long as the piece lasts.
    fn next(&mut self) -> Option<(Vec<f32>, u32)>;
}

/// Where answers are played.
trait Output {
    /// Takes samples at 24 kHz, to be played after those before.
    fn queue(&self, samples: Vec<f32>);
    /// Samples at 24 kHz that were played.
    fn played(&self) -> usize;
    /// Whether all was played.
    fn is_silent(&self) -> bool;
    /// Discards what was not played.
    fn clear(&self);
}

/// A recording, played at the pace at which it was spoken.
struct Recording {
    samples: VecDeque<f32>,
    begun: Instant,
    given: usize,
}

/// Samples of one piece: a tenth of a second.
const PIECE: usize = SAMPLE_RATE as usize / 10;

impl Recording {
    fn new(samples: &[f32]) -> Self {
        Self { samples: samples.iter().copied().collect(), begun: Instant::now(), given: 0 }
    }
}

impl Microphone for Recording {
    fn next(&mut self) -> Option<(Vec<f32>, u32)> {
        let piece: Vec<f32> = self.samples.drain(..PIECE.min(self.samples.len())).collect();
        self.given += piece.len();
        let due = Duration::from_secs_f64(self.given as f64 / f64::from(SAMPLE_RATE));
        thread::sleep(due.saturating_sub(self.begun.elapsed()));
        (!piece.is_empty()).then_some((piece, SAMPLE_RATE))
    }
}

/// Samples that wait to be played, and the number of those that were.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<f32>,
    played: usize,
    /// Silence that was played because the next piece was not there yet.
    gaps: usize,
    /// Whether nothing more will come.
    over: bool,
}

/// Plays into a WAV file, in a thread of its own, at the pace of real time.
struct Tape {
    queue: Arc<Mutex<Queue>>,
    thread: JoinHandle<Result<WavFile>>,
}

const OUT: u32 = code2wav::SAMPLE_RATE;
/// How often the player checks what is due.
const TICK: Duration = Duration::from_millis(20);

impl Tape {
    fn start(file: WavFile) -> Self {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let shared = queue.clone();
        Self { queue, thread: thread::spawn(move || play(file, &shared)) }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Queue) -> R) -> R {
        f(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until all was played. Returns the file, and the samples of silence within the sound.
    fn finish(self) -> Result<(WavFile, usize)> {
        let gaps = self.with(|queue| {
            queue.over = true;
            queue.gaps
        });
        let file = self.thread.join().map_err(|_| Error::Device("the player stopped".into()))??;
        Ok((file, gaps))
    }
}

fn play(mut file: WavFile, queue: &Mutex<Queue>) -> Result<WavFile> {
    let (mut clock, mut passed) = (None, 0);
    loop {
        let due = {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.over && queue.waiting.is_empty() {
                return Ok(file);
            }
            // The clock starts with the first sound.
            if clock.is_none() && !queue.waiting.is_empty() {
                clock = Some(Instant::now());
            }
            let until = clock.map_or(0, |clock| ((clock.elapsed() + TICK).as_secs_f64() * f64::from(OUT)) as usize);
            let count = until.saturating_sub(passed);
            passed = passed.max(until);
            let ready = count.min(queue.waiting.len());
            let mut due: Vec<f32> = queue.waiting.drain(..ready).collect();
            queue.played += ready;
            if !queue.over {
                queue.gaps += count - ready;
                due.resize(count, 0.0);
            }
            due
        };
        file.write(&due)?;
        thread::sleep(TICK);
    }
}

impl Output for Tape {
    fn queue(&self, samples: Vec<f32>) {
        self.with(|queue| queue.waiting.extend(samples));
    }

    fn played(&self) -> usize {
        self.with(|queue| queue.played)
    }

    fn is_silent(&self) -> bool {
        // A player that failed, as on a full disk, says why in the end.
        self.thread.is_finished() || self.with(|queue| queue.waiting.is_empty())
    }

    fn clear(&self) {
        self.with(|queue| queue.waiting.clear());
    }
}

fn seconds(samples: usize) -> f64 {
    samples as f64 / f64::from(OUT)
}

/// Feeds a turn to the model while it is being spoken.
fn listen(mut turn: AudioTurn, microphone: &mut dyn Microphone, line: &ProgressBar) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while let Some((piece, rate)) = microphone.next() {
        let started = Instant::now();
        turn.push(&piece, rate)?;
        slowest = slowest.max(started.elapsed());
        line.set_message(format!("listening {:.1} s", turn.duration().as_secs_f64()));
        line.tick();
    }
    turn.finish()?;
    Ok(slowest)
}

/// Answers the last turn while playing it; stops when `interrupt` says so, given the samples played.
fn answer(
    session: &mut Session,
    options: &GenerateOptions,
    output: &dyn Output,
    line: &ProgressBar,
    interrupt: &mut dyn FnMut(usize) -> bool,
) -> Result<Reply> {
    let asked = Instant::now();
    let mut answer = session.answer(options)?;
    let (mut text, mut made, mut first, mut reply) = (String::new(), 0, None, None);
    let show = |text: &str, made: usize, first: Option<Duration>| {
        let first = first.map_or(String::new(), |first| format!("first sound {:.0} ms, ", first.as_secs_f64() * 1e3));
        let played = seconds(output.played());
        line.set_message(format!("{first}made {:.1} s, played {played:.1} s: {text}", seconds(made)));
        line.tick();
    };
    let mut interrupted = false;
    while let Some(event) = answer.next() {
        match event? {
            Event::Text(piece) => text.push_str(&piece),
            Event::Audio(sound) => {
                first.get_or_insert(asked.elapsed());
                made += sound.samples.len();
                if !interrupted {
                    output.queue(sound.samples);
                }
            }
            Event::Done(done) => reply = Some(*done),
            _ => {}
        }
        if !interrupted && interrupt(output.played()) {
            interrupted = true;
            answer.cancel();
            output.clear();
        }
        show(&text, made, first);
    }
    let reply = reply.expect("an answer ends with `Done` or an error");
    // Sound is made faster than it is played: the interruption may still come.
    while !interrupted && !output.is_silent() {
        thread::sleep(TICK);
        interrupted = interrupt(output.played());
        show(&text, made, first);
    }
    output.clear();
    line.suspend(|| println!("{}", reply.text));
    // An answer that is interrupted before its first word has nothing to take back.
    if interrupted && !reply.text.is_empty() {
        let played = output.played();
        let heard = reply.played(played);
        session.truncate_answer(&heard)?;
        line.suspend(|| eprintln!("interrupted after {:.2} s; heard at most: {}", seconds(played), heard.text));
    }
    Ok(reply)
}

/// The latency table of one turn.
fn report(reply: &Reply, slowest: Duration, gaps: usize) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let timings = &reply.timings;
    let per = |time: Duration, count: usize| if count == 0 { 0.0 } else { ms(time) / count as f64 };
    let frames = reply.usage.frames;
    eprintln!("  slowest piece while listening {:>9.1} ms", ms(slowest));
    eprintln!("  preprocessing                 {:>9.1} ms", ms(timings.preprocessing));
    eprintln!("  encoders                      {:>9.1} ms", ms(timings.encoders));
    let usage = &reply.usage;
    eprintln!(
        "  thinker, prompt               {:>9.1} ms  ({} of {} tokens cached)",
        ms(timings.prefill),
        usage.cached_tokens,
        usage.prompt_tokens
    );
    eprintln!("  first token                   {:>9.1} ms", ms(timings.first_text));
    eprintln!("  talker, first code            {:>9.1} ms", ms(timings.first_code));
    eprintln!("  code predictor per frame      {:>9.2} ms", per(timings.code_predictor, frames));
    eprintln!("  vocoder per frame             {:>9.2} ms", per(timings.vocoder, frames));
    if let Some(first) = timings.first_audio {
        eprintln!("  first packet                  {:>9.1} ms", ms(first));
    }
    eprintln!("  thinker                       {:>9.1} tokens/s", reply.tokens_per_second());
    if let Some(factor) = reply.real_time_factor() {
        eprintln!("  real-time factor              {factor:>9.3}");
    }
    eprintln!("  keys and values               {:>9.1} MB", usage.cache_bytes as f64 / 1e6);
    eprintln!("  silence while waiting         {:>9.2} s", seconds(gaps));
}

fn run(arguments: Arguments) -> Result<()> {
    let omni = arguments.flags.load()?;
    let mut options = arguments.flags.options();
    options.chunks = arguments.chunk_ramp;
    let norm = if arguments.mel_norm_so_far { MelNorm::SoFar } else { MelNorm::Exact };
    #[cfg(feature = "live")]
    if arguments.live {
        return live::run(&omni, &options, norm);
    }
    recorded(&omni, &options, norm, arguments)
}

fn recorded(omni: &Omni, options: &GenerateOptions, norm: MelNorm, arguments: Arguments) -> Result<()> {
    let files = match arguments.files.is_empty() {
        true => vec![sample("spoken_hello_question.wav"), sample("spoken_sum_question.wav")],
        false => arguments.files,
    };
    let out = &arguments.flags.out;
    let mut tape = WavFile::create(out, OUT)?;
    let mut session = omni.session();
    let mut stop_at = arguments.interrupt_at;
    for file in files {
        let line = ProgressBar::new_spinner();
        let spoken = read(&AudioInput::from(file.as_path())).map_err(named)?;
        let slowest = listen(session.audio_turn(options, norm)?, &mut Recording::new(&spoken), &line)?;
        // The question goes on the tape as well.
        tape.write(&at_rate(&spoken, SAMPLE_RATE, OUT)?)?;
        let player = Tape::start(tape);
        let mut interrupt = |played: usize| stop_at.is_some_and(|at| seconds(played) >= at);
        let reply = answer(&mut session, options, &player, &line, &mut interrupt);
        stop_at = None;
        if reply.is_err() {
            player.clear();
        }
        // The file comes back in any case, so that nothing half-written is left.
        let gaps;
        (tape, gaps) = player.finish()?;
        line.finish_and_clear();
        report(&reply?, slowest, gaps);
    }
    tape.finish()?;
    eprintln!("the conversation is in {}", out.display());
    Ok(())
}

fn at_rate(samples: &[f32], from: u32, to: u32) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    let mut resampler = Resampler::new(from, to);
    let mut keep = |piece: &[f32]| {
        out.extend_from_slice(piece);
        Ok(())
    };
    resampler.push(samples, &mut keep).map_err(named)?;
    resampler.finish(&mut keep).map_err(named)?;
    Ok(out)
}

fn named(error: MediaError) -> Error {
    error.in_part("the microphone")
}

#[cfg(feature = "live")]
mod live;

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}
