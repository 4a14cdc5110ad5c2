//! The thread of a conversation: listens, answers, and is interrupted.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use async_channel::{Receiver, Sender};
use omni_core::Result;

use super::ear::{Ear, Heard, samples_in};
use super::event::ConversationEvent;
use super::options::ConversationOptions;
use crate::answer::Canceller;
use crate::output::{Event, Played, Reply};
use crate::prompt::{GenerateOptions, Message};
use crate::session::{AudioTurn, MelNorm, Session};

/// What the worker is told.
pub(super) enum Input {
    Sound(Vec<f32>, u32),
    Played(usize),
    EndTurn,
    Interrupt,
    Message(Box<Message>),
    /// An item of the answer with this number.
    Answer(u64, Result<Event>),
    /// The answer with this number has been read to its end.
    AnswerEnded(u64),
    /// The last handle was dropped.
    Closed,
}

/// What moves the conversation on.
enum Step {
    Heard(Heard),
    EndTurn,
    Interrupt,
    Message(Box<Message>),
    Answer(Result<Event>),
    AnswerEnded,
}

/// The conversation has no handle or no reader any more.
struct Closed;

type Flow<T = ()> = ControlFlow<Closed, T>;

pub(super) struct Worker {
    session: Session,
    answer_options: GenerateOptions,
    mel_norm: MelNorm,
    interruptible: bool,
    /// Whether answers are spoken.
    speaks: bool,
    ear: Ear,
    /// To send the items of an answer to the worker itself.
    own_inputs: Sender<Input>,
    inputs: Receiver<Input>,
    events: Sender<Result<ConversationEvent>>,
    /// Steps that were not taken yet.
    waiting: VecDeque<Step>,
    playing: Option<Playing>,
    /// The spoken turn that the last answer answers.
    spoken: Option<SpokenTurn>,
    /// Number of answers so far.
    answers: u64,
    /// Whether no more inputs come from outside.
    closed: bool,
}

/// A turn that was spoken.
struct SpokenTurn {
    /// One channel at 16 kHz.
    sound: Vec<f32>,
    /// Number of messages before it.
    before: usize,
}

/// An answer on its way to a person's ears.
struct Playing {
    canceller: Canceller,
    /// `None` while it is generated.
    reply: Option<Box<Reply>>,
    generated: bool,
    /// Whether a function call was handed out, or text of an answer that is not spoken: neither can be taken back.
    acted_on: bool,
    /// Samples that were handed out.
    samples: usize,
    sample_rate: u32,
    /// When the first of them was.
    since: Option<Instant>,
    /// Samples that were played, if the application tells.
    played: Option<usize>,
}

impl Playing {
    fn played(&self) -> usize {
        let clock = || self.since.map_or(0, |since| samples_in(since.elapsed(), self.sample_rate));
        self.played.unwrap_or_else(clock).min(self.samples)
    }

    /// Whether the answer can be dropped without anybody missing it.
    fn is_unnoticed(&self) -> bool {
        !self.acted_on && self.played() == 0
    }

    /// Whether nothing is left to interrupt.
    fn is_over(&self) -> bool {
        (self.generated || self.reply.is_some()) && self.played() >= self.samples
    }
}

impl Worker {
    pub(super) fn new(
        session: Session,
        options: ConversationOptions,
        own_inputs: Sender<Input>,
        inputs: Receiver<Input>,
        events: Sender<Result<ConversationEvent>>,
    ) -> Self {
        let ConversationOptions { answer, mel_norm, detector, interruptible } = options;
        Self {
            speaks: session.speaks(&answer),
            session,
            answer_options: answer,
            mel_norm,
            interruptible,
            ear: Ear::new(detector),
            own_inputs,
            inputs,
            events,
            waiting: VecDeque::new(),
            playing: None,
            spoken: None,
            answers: 0,
            closed: false,
        }
    }

    pub(super) fn run(mut self) {
        while self.turn().is_continue() {}
        if let Some(playing) = &self.playing {
            playing.canceller.cancel();
        }
    }

    fn emit(&self, event: Result<ConversationEvent>) -> Flow {
        match self.events.try_send(event) {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(Closed),
        }
    }

    /// The next step, waiting for it.
    fn next(&mut self) -> Flow<Step> {
        loop {
            if let Some(step) = self.waiting.pop_front() {
                return Flow::Continue(step);
            }
            let answering = self.playing.as_ref().is_some_and(|playing| !playing.generated);
            if self.closed && !answering && self.inputs.is_empty() {
                return Flow::Break(Closed);
            }
            let Ok(input) = self.inputs.recv_blocking() else { return Flow::Break(Closed) };
            self.take(input)?;
        }
    }

    /// Turns an input into steps.
    fn take(&mut self, input: Input) -> Flow {
        let step = match input {
            Input::Sound(samples, sample_rate) => match self.ear.push(&samples, sample_rate) {
                Ok(heard) => {
                    self.waiting.extend(heard.into_iter().map(Step::Heard));
                    return Flow::Continue(());
                }
                Err(error) => return self.emit(Err(error)),
            },
            Input::Played(samples) => {
                self.playing.iter_mut().for_each(|playing| playing.played = Some(samples));
                return Flow::Continue(());
            }
            Input::EndTurn if self.ear.end() => Step::EndTurn,
            Input::EndTurn => return Flow::Continue(()),
            Input::Interrupt => Step::Interrupt,
            Input::Message(message) => Step::Message(message),
            Input::Answer(number, item) if number == self.answers => Step::Answer(item),
            Input::AnswerEnded(number) if number == self.answers => Step::AnswerEnded,
            // A late item of an earlier answer.
            Input::Answer(..) | Input::AnswerEnded(_) => return Flow::Continue(()),
            Input::Closed => {
                self.closed = true;
                return Flow::Continue(());
            }
        };
        self.waiting.push_back(step);
        Flow::Continue(())
    }

    /// Takes one step while nobody's turn is going on.
    fn turn(&mut self) -> Flow {
        match self.next()? {
            Step::Heard(Heard::Begin(sound)) => {
                self.emit(Ok(ConversationEvent::SpeechStarted))?;
                let unnoticed = self.interruptible && self.interrupt()?;
                self.playing = None;
                let earlier = self.spoken.take().filter(|_| unnoticed);
                self.listen(sound, earlier)
            }
            Step::Message(message) => {
                self.interrupt()?;
                self.spoken = None;
                self.session.push(*message);
                self.answer()
            }
            Step::Interrupt => self.interrupt().map_continue(drop),
            step @ (Step::Answer(_) | Step::AnswerEnded) => self.hand_out_step(step),
            // What follows a turn that failed.
            Step::Heard(_) | Step::EndTurn => Flow::Continue(()),
        }
    }

    /// Follows a person's turn to its end, then answers. A turn goes on from `earlier` if that one was only paused.
    fn listen(&mut self, sound: Vec<f32>, earlier: Option<SpokenTurn>) -> Flow {
        let turn = match earlier {
            Some(SpokenTurn { sound: earlier, before }) => {
                self.session.truncate(before);
                self.emit(Ok(ConversationEvent::TurnResumed))?;
                SpokenTurn { sound: [earlier, sound].concat(), before }
            }
            None => SpokenTurn { sound, before: self.session.messages().len() },
        };
        match self.hear_turn(turn)? {
            Ok(turn) => {
                self.spoken = Some(turn);
                self.emit(Ok(ConversationEvent::TurnEnded))?;
                self.answer()
            }
            Err(error) => self.emit(Err(error)),
        }
    }

    /// Prefills a turn as it is spoken; returns all of it.
    fn hear_turn(&mut self, mut spoken: SpokenTurn) -> Flow<Result<SpokenTurn>> {
        let (options, norm) = (self.answer_options.clone(), self.mel_norm);
        // The turn borrows the session, the rest of the worker is needed meanwhile.
        let mut session = self.session.handle();
        let mut turn = match session.audio_turn(&options, norm) {
            Ok(turn) => turn,
            Err(error) => return Flow::Continue(Err(error)),
        };
        let push = |turn: &mut AudioTurn, sound: &[f32]| turn.push(sound, media::audio::SAMPLE_RATE);
        let mut pushed = push(&mut turn, &spoken.sound);
        let mut later = Vec::new();
        while pushed.is_ok() {
            match self.next()? {
                Step::Heard(Heard::More(sound)) => {
                    pushed = push(&mut turn, &sound);
                    spoken.sound.extend(sound);
                }
                Step::Heard(Heard::End) | Step::EndTurn => break,
                Step::Message(message) => later.push(Step::Message(message)),
                Step::Heard(Heard::Begin(_)) | Step::Interrupt | Step::Answer(_) | Step::AnswerEnded => {}
            }
        }
        self.waiting.extend(later);
        Flow::Continue(pushed.and_then(|()| turn.finish()).map(|()| spoken))
    }

    /// Begins to answer. The items come back as inputs.
    fn answer(&mut self) -> Flow {
        let answer = match self.session.answer(&self.answer_options) {
            Ok(answer) => answer,
            Err(error) => return self.emit(Err(error)),
        };
        self.answers += 1;
        let (inputs, number) = (self.own_inputs.clone(), self.answers);
        let canceller = answer.canceller();
        let reader = move || {
            for item in answer {
                let _ = inputs.try_send(Input::Answer(number, item));
            }
            let _ = inputs.try_send(Input::AnswerEnded(number));
        };
        let spawned = std::thread::Builder::new().name("qwen3-omni answer".into()).spawn(reader);
        if let Err(error) = spawned {
            return self.emit(Err(omni_core::Error::Device(format!("no thread for the answer: {error}"))));
        }
        self.playing = Some(Playing {
            canceller,
            reply: None,
            generated: false,
            acted_on: false,
            samples: 0,
            sample_rate: 0,
            since: None,
            played: None,
        });
        if self.interruptible { Flow::Continue(()) } else { self.hand_out_all() }
    }

    /// Hands out an answer to its end; everything else waits.
    fn hand_out_all(&mut self) -> Flow {
        let mut later = VecDeque::new();
        while self.playing.as_ref().is_some_and(|playing| !playing.generated) {
            match self.next()? {
                step @ (Step::Answer(_) | Step::AnswerEnded) => self.hand_out_step(step)?,
                Step::Interrupt => {
                    self.interrupt()?;
                }
                step => later.push_back(step),
            }
        }
        self.waiting.append(&mut later);
        Flow::Continue(())
    }

    fn hand_out_step(&mut self, step: Step) -> Flow {
        match step {
            Step::Answer(item) => self.hand_out(item),
            _ => {
                self.playing.iter_mut().for_each(|playing| playing.generated = true);
                Flow::Continue(())
            }
        }
    }

    /// Passes an item of the answer on.
    fn hand_out(&mut self, item: Result<Event>) -> Flow {
        let Some(playing) = &mut self.playing else { return Flow::Continue(()) };
        playing.acted_on |= match &item {
            Ok(Event::ToolCall(_)) => true,
            Ok(Event::Text(_)) => !self.speaks,
            _ => false,
        };
        let event = match item {
            Ok(Event::Text(piece)) => ConversationEvent::Text(piece),
            Ok(Event::Thinking(piece)) => ConversationEvent::Thinking(piece),
            Ok(Event::LogProbs(log_probs)) => ConversationEvent::LogProbs(log_probs),
            Ok(Event::ToolCall(call)) => ConversationEvent::ToolCall(call),
            Ok(Event::Audio(sound)) => {
                playing.samples += sound.samples.len();
                playing.sample_rate = sound.sample_rate;
                playing.since.get_or_insert_with(Instant::now);
                ConversationEvent::Audio(sound)
            }
            Ok(Event::Done(reply)) => {
                playing.reply = Some(reply.clone());
                ConversationEvent::Done(reply)
            }
            Err(error) => return self.emit(Err(error)),
        };
        self.emit(Ok(event))
    }

    /// Stops the answer that is being generated or played, and cuts it to what was played. Returns whether nobody noticed that there
    /// was one.
    fn interrupt(&mut self) -> Flow<bool> {
        let Some(mut playing) = self.playing.take() else { return Flow::Continue(false) };
        if playing.is_over() {
            return Flow::Continue(false);
        }
        let (heard, unnoticed) = (playing.played(), playing.is_unnoticed());
        playing.canceller.cancel();
        let mut later = VecDeque::new();
        while !playing.generated {
            match self.next()? {
                Step::Answer(Ok(Event::Done(reply))) => {
                    playing.reply = Some(reply.clone());
                    self.emit(Ok(ConversationEvent::Done(reply)))?;
                }
                // What was ready before it was cancelled is not played any more.
                Step::Answer(Ok(_)) => {}
                Step::Answer(Err(error)) => self.emit(Err(error))?,
                Step::AnswerEnded => playing.generated = true,
                step => later.push_back(step),
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
        let Some(reply) = playing.reply else { return Flow::Continue(unnoticed) };
        if !self.speaks && !unnoticed {
            // What was written stays.
            let (text, tokens) = (reply.text.clone(), reply.token_ids.len());
            let played = Played { at_most: text.clone(), text, tokens, frames: 0 };
            self.emit(Ok(ConversationEvent::Interrupted(played)))?;
            return Flow::Continue(false);
        }
        let played = reply.played(heard);
        // Without an answer at the end there is nothing to cut: it was interrupted before its first word.
        let _ = self.session.truncate_answer(&played);
        self.emit(Ok(ConversationEvent::Interrupted(played)))?;
        Flow::Continue(unnoticed)
    }
}
