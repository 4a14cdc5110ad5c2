//! Recordings in the place of a microphone, and a WAV file in that of speakers.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use qwen3_omni::media::audio::{AudioInput, SAMPLE_RATE, read};
use qwen3_omni::{Audio, Conversation, ConversationOptions, Omni, Result, TurnDetector, WavFile};
use qwen3_omni_examples::sample;

use super::{Arguments, Player, follow};

/// Duration of the pieces in which a recording is heard, and the samples in one.
const PIECE: Duration = Duration::from_millis(100);
const PIECE_SAMPLES: usize = SAMPLE_RATE as usize / 10;

/// Asks one recording after the other, each when the answer before was played or interrupted.
pub(super) fn talk(omni: &Omni, mut options: ConversationOptions, arguments: &Arguments) -> Result<()> {
    let files = match arguments.files.is_empty() {
        true => vec![sample("spoken_hello_question.wav"), sample("spoken_sum_question.wav")],
        false => arguments.files.clone(),
    };
    let recordings: Vec<Vec<f32>> = files
        .iter()
        .map(|file| read(&AudioInput::from(file.as_path())).map_err(|error| error.in_part("the microphone")))
        .collect::<Result<_>>()?;
    let out = &arguments.flags.out;
    // Created before the answers, so that none is lost to an unwritable path.
    let speaks = omni.speaks() && !arguments.flags.text_only;
    let file = speaks.then(|| WavFile::create(out, omni.sample_rate())).transpose()?;
    options.detector = Box::new(Button);
    let (conversation, events) = omni.session().converse(options)?;
    let (cues, received) = channel();
    thread::spawn(move || record(&conversation, &recordings, &received));
    let answer = Audio { samples: Vec::new(), sample_rate: omni.sample_rate() };
    let mut tape = Tape { file, answer, begun: None, interrupt_at: arguments.interrupt_at, is_cued: false, cues };
    follow(events, &mut tape)?;
    tape.begin()?;
    if let Some(file) = tape.file {
        file.finish()?;
        eprintln!("the answers are in {}", out.display());
    }
    Ok(())
}

/// A button that is held while a recording is played: all sound belongs to a turn, which ends when the button is released.
struct Button;

impl TurnDetector for Button {
    fn is_speaking(&mut self, _: &[f32]) -> bool {
        true
    }
}

/// Speaks at the pace of real time; between recordings it waits for a cue, the time at which the next one begins.
fn record(conversation: &Conversation, recordings: &[Vec<f32>], cues: &Receiver<Instant>) {
    for recording in recordings {
        for piece in recording.chunks(PIECE_SAMPLES) {
            thread::sleep(PIECE);
            conversation.push(piece, SAMPLE_RATE);
        }
        // Sound is heard in frames of 16 ms: this completes the last one.
        conversation.push(&[0.0; 256], SAMPLE_RATE);
        conversation.end_turn();
        // Without the other side the program is ending.
        let Ok(cue) = cues.recv() else { return };
        thread::sleep(cue.saturating_duration_since(Instant::now()));
        // An answer that was played to its end stays as it is.
        conversation.interrupt();
    }
}

/// Speakers that write what they play into a file. They play without a pause, which is what a conversation
/// assumes if it is not told what was played.
struct Tape {
    /// `None` if nothing is to be spoken.
    file: Option<WavFile>,
    /// The present answer, and when its first sound came.
    answer: Audio,
    begun: Option<Instant>,
    /// Where the first answer is interrupted.
    interrupt_at: Option<Duration>,
    /// Whether the next recording has its cue.
    is_cued: bool,
    cues: Sender<Instant>,
}

impl Tape {
    fn cue(&mut self, next: Instant) {
        self.is_cued = true;
        // After the last recording nobody waits.
        let _ = self.cues.send(next);
    }
}

impl Player for Tape {
    fn begin(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.write(&self.answer.samples)?;
        }
        self.answer.samples.clear();
        (self.begun, self.is_cued) = (None, false);
        Ok(())
    }

    fn queue(&mut self, sound: &Audio) -> Result<()> {
        self.answer.samples.extend(&sound.samples);
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if let Some(after) = self.interrupt_at.take() {
            self.cue(begun + after);
        }
        Ok(())
    }

    fn stop(&mut self) {
        let played = self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        self.answer.samples.truncate((played * f64::from(self.answer.sample_rate)) as usize);
    }

    fn end(&mut self) {
        if !self.is_cued {
            self.cue(self.begun.unwrap_or_else(Instant::now) + self.answer.duration());
        }
    }
}
