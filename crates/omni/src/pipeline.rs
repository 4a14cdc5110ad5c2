//! From a prompt to events: the thinker writes, then the talker, the code predictor and the vocoder speak.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Int, Tensor};
use moe_talker::{Conversation, SpeakOptions, Speaking};
use moe_thinker::{ThinkerState, merge};
use mtp::{CodePredictor, PredictorState};
use nn::{Sampler, id_row};
use omni_core::{
    CodeFrames, DecoderInput, Error, FrameCodes, Positions, Result, SamplingOptions, Stage, Thinker as _, Vocoder,
};

use crate::encode::encode;
use crate::omni::{Inner, SpeechParts};
use crate::processor::Prompt;
use crate::written::Written;
use crate::{
    Audio, Event, GenerateOptions, LastWord, Reply, Speech, TalkerPositions, TextStop, Timings, Usage, VocoderMode,
};

/// How the answer is to be spoken.
pub(crate) struct SpeechPlan {
    pub(crate) speaker: u32,
    pub(crate) speak: SpeakOptions,
}

/// An answer in the making: an iterator of events. After an error or `Done` it is exhausted.
pub struct ReplyStream {
    model: Arc<Inner>,
    options: GenerateOptions,
    plan: Option<SpeechPlan>,
    prompt: Prompt,
    answer: Vec<u32>,
    written: Written,
    /// States of the accepted layer over the prompt, if the talker will want them.
    tap: Option<Tensor<3>>,
    text_stop: TextStop,
    phase: Phase,
    ready: VecDeque<Event>,
    started: Instant,
    timings: Timings,
    samples: usize,
}

enum Phase {
    Start,
    Think(Box<Thinking>),
    Speak(Box<Voice>),
    Over,
}

/// The thinker between two tokens.
struct Thinking {
    state: ThinkerState,
    sampler: Sampler,
    delta: f32,
    next: Tensor<2, Int>,
    /// The end token was chosen, or no more tokens may be.
    ended: bool,
}

/// The talker and the vocoder between two frames.
struct Voice {
    speaking: Speaking<Timed>,
    trailing: Tensor<3>,
    pad: Tensor<3>,
    frame: usize,
    vocoder: code2wav::VocoderState,
    waiting: Vec<Tensor<2, Int>>,
    codes: Vec<Vec<u32>>,
}

impl ReplyStream {
    pub(crate) fn new(model: Arc<Inner>, prompt: Prompt, options: GenerateOptions, plan: Option<SpeechPlan>) -> Self {
        let written = Written::new(&model.tokenizer, prompt.ids(), options.starts_thinking);
        Self {
            model,
            options,
            plan,
            prompt,
            answer: Vec::new(),
            written,
            tap: None,
            text_stop: TextStop::Limit,
            phase: Phase::Start,
            ready: VecDeque::new(),
            started: Instant::now(),
            timings: Timings::default(),
            samples: 0,
        }
    }

    /// Does the next bit of work; events it makes wait in `ready`.
    fn advance(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Start => self.read_prompt(),
            Phase::Think(thinking) => self.think(thinking),
            Phase::Speak(voice) => self.speak(voice),
            Phase::Over => Ok(()),
        }
    }

    fn read_prompt(&mut self) -> Result<()> {
        let _span = tracing::info_span!("thinker_prompt", tokens = self.prompt.tokens()).entered();
        self.started = Instant::now();
        let media = encode(&self.model, &mut self.prompt)?;
        self.timings.encoders = self.started.elapsed();
        let (positions, delta) = self.prompt.layout.positions(self.prompt.ids())?;
        let thinker = &self.model.thinker;
        let mut state = thinker.start();
        let embeds = thinker.embed(id_row(self.prompt.ids(), &self.model.device));
        let (embeds, visual) = merge(embeds, self.prompt.ids(), &self.prompt.layout.ids, media)?;
        let output = thinker.step(&mut state, DecoderInput { embeds, positions, left_padding: Vec::new(), visual })?;
        self.tap = output.tap.filter(|_| self.plan.is_some() && self.prompt.has_media());
        let mut sampler = Sampler::new(&self.options.thinker, None);
        let next = sampler.sample(output.logits);
        let mut thinking = Thinking { state, sampler, delta, next, ended: false };
        self.take_token(&mut thinking);
        self.timings.first_text = self.started.elapsed();
        self.timings.thinker = self.timings.first_text - self.timings.encoders;
        self.phase = Phase::Think(Box::new(thinking));
        Ok(())
    }

    /// One token: feed the last one, choose the next.
    fn think(&mut self, mut thinking: Box<Thinking>) -> Result<()> {
        let started = Instant::now();
        if thinking.ended {
            let rest = self.written.finish();
            self.ready.extend(rest);
            return self.start_speech();
        }
        let thinker = &self.model.thinker;
        let position = thinking.state.tokens() as f32 + thinking.delta;
        let embeds = thinker.embed(thinking.next.clone());
        let input = DecoderInput::text(embeds, Positions::sequence(position, 1));
        let output = thinker.step(&mut thinking.state, input)?;
        thinking.next = thinking.sampler.sample(output.logits);
        self.take_token(&mut thinking);
        self.timings.thinker += started.elapsed();
        self.phase = Phase::Think(thinking);
        Ok(())
    }

    /// The one place where a text id crosses to the host.
    fn take_token(&mut self, thinking: &mut Thinking) {
        let id = thinking.next.clone().into_scalar::<i64>() as u32;
        if id == self.model.config.im_end_token_id {
            self.text_stop = TextStop::End;
            thinking.ended = true;
            return;
        }
        self.answer.push(id);
        let piece = self.written.push(&self.model.tokenizer, id);
        self.ready.extend(piece);
        if self.prompt.tokens() + self.answer.len() >= self.model.thinker.context_length() {
            self.text_stop = TextStop::Context;
            thinking.ended = true;
        } else if self.answer.len() >= self.options.max_new_tokens {
            self.text_stop = TextStop::Limit;
            thinking.ended = true;
        }
    }

    /// Lays out the talker's prompt, or ends if there is nothing to say.
    fn start_speech(&mut self) -> Result<()> {
        let (Some(parts), Some(plan)) = (&self.model.speech, &self.plan) else {
            return self.finish(None);
        };
        let started = Instant::now();
        let lost = self.text_stop != TextStop::End && self.options.last_word == LastWord::AsReference;
        // Thinking is not said aloud.
        let until = self.answer.len() - usize::from(lost);
        let spoken = &self.answer[self.written.answer_start().min(until)..until];
        let conversation = Conversation {
            prompt: self.prompt.ids(),
            answer: spoken,
            speaker: plan.speaker,
            embed: &|ids| self.model.thinker.embed(ids),
            tap: self.tap.take(),
        };
        let Some(prompt) = parts.talker.prompt(&conversation)? else {
            return self.finish(None);
        };
        let positions = match self.options.talker_positions {
            TalkerPositions::Exact => self.prompt.layout.positions(&prompt.ids)?,
            TalkerPositions::AsReference => self.prompt.layout.plain_positions(&prompt.ids)?,
        };
        let speaking = parts.talker.begin(&prompt, positions, &parts.code_predictor, &plan.speak, &mut ())?;
        let voice = Voice {
            speaking,
            trailing: prompt.trailing,
            pad: prompt.pad,
            frame: 0,
            vocoder: parts.code2wav.start(),
            waiting: Vec::new(),
            codes: Vec::new(),
        };
        self.timings.talker += started.elapsed();
        self.phase = Phase::Speak(Box::new(voice));
        Ok(())
    }

    /// One frame; every few frames, a piece of sound.
    fn speak(&mut self, mut voice: Box<Voice>) -> Result<()> {
        let model = self.model.clone();
        let parts = model.speech.as_ref().expect("speech was started");
        let started = Instant::now();
        let text = voice.text_row();
        let frame = parts.talker.frame(&mut voice.speaking, &parts.code_predictor, text, &mut ())?;
        let predicting = voice.speaking.predictor().1 - self.timings.code_predictor;
        self.timings.code_predictor += predicting;
        self.timings.talker += started.elapsed().saturating_sub(predicting);
        let over = frame.is_none();
        voice.waiting.extend(frame);
        let exact = self.options.vocoder == VocoderMode::Exact;
        let full = voice.waiting.len() >= self.options.chunk_frames && exact;
        if !voice.waiting.is_empty() && (over || full) {
            self.vocode(&mut voice, parts)?;
        }
        if over {
            return self.finish(Some(voice));
        }
        self.phase = Phase::Speak(voice);
        Ok(())
    }

    /// Turns the waiting frames into sound: the one place where samples cross to the host.
    fn vocode(&mut self, voice: &mut Voice, parts: &SpeechParts) -> Result<()> {
        let started = Instant::now();
        let rows = Tensor::cat(std::mem::take(&mut voice.waiting), 0); // [F, Q]
        voice.codes.extend(host_codes(rows.clone())?);
        let codes = rows.swap_dims(0, 1).unsqueeze::<3>(); // [1, Q, F]
        let samples = match self.options.vocoder {
            VocoderMode::Exact => parts.code2wav.step(&mut voice.vocoder, CodeFrames { codes })?.samples,
            VocoderMode::Chunked(chunking) => parts.code2wav.decode_chunked(codes, chunking),
        };
        let samples = samples.try_into_data().map_err(device_failed)?.try_to_vec_as().map_err(device_failed)?;
        self.timings.vocoder += started.elapsed();
        self.timings.first_audio.get_or_insert(self.started.elapsed());
        self.samples += samples.len();
        self.ready.push_back(Event::Audio(Audio { samples, sample_rate: parts.code2wav.sample_rate() }));
        Ok(())
    }

    fn finish(&mut self, voice: Option<Box<Voice>>) -> Result<()> {
        let sample_rate = code2wav::SAMPLE_RATE;
        // An answer whose first code is the end code says nothing.
        let voice = voice.filter(|voice| !voice.codes.is_empty());
        let speech = voice.and_then(|voice| {
            let stop = voice.speaking.stop()?;
            Some(Speech { audio: Audio { samples: Vec::new(), sample_rate }, codes: voice.codes, stop })
        });
        self.timings.total = self.started.elapsed();
        let usage = Usage {
            prompt_tokens: self.prompt.tokens(),
            text_tokens: self.answer.len(),
            frames: speech.as_ref().map_or(0, |speech| speech.codes.len()),
            audio: Duration::from_secs_f64(self.samples as f64 / f64::from(sample_rate)),
        };
        let (thinking, text) = self.written.texts(&self.model.tokenizer, &self.answer);
        tracing::info!(%usage, timings = %self.timings, "answered");
        self.ready.push_back(Event::Done(Box::new(Reply {
            text,
            thinking,
            token_ids: std::mem::take(&mut self.answer),
            text_stop: self.text_stop,
            speech,
            usage,
            timings: self.timings,
        })));
        Ok(())
    }
}

impl Iterator for ReplyStream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if matches!(self.phase, Phase::Over) {
                return None;
            }
            if let Err(error) = self.advance() {
                return Some(Err(error));
            }
        }
    }
}

impl Voice {
    /// The next row of text `[1, 1, D]`, or the pad once the text has run out.
    fn text_row(&mut self) -> Tensor<3> {
        let row = match self.frame < self.trailing.dims()[1] {
            true => self.trailing.clone().narrow(1, self.frame, 1),
            false => self.pad.clone(),
        };
        self.frame += 1;
        row
    }
}

/// `[F, Q]` codes on the host.
fn host_codes(rows: Tensor<2, Int>) -> Result<Vec<Vec<u32>>> {
    let codebooks = rows.dims()[1];
    let codes: Vec<i64> = rows.try_into_data().map_err(device_failed)?.try_to_vec_as().map_err(device_failed)?;
    Ok(codes.chunks(codebooks).map(|frame| frame.iter().map(|code| *code as u32).collect()).collect())
}

fn device_failed(error: impl std::fmt::Display) -> Error {
    Error::Device(format!("a result could not be read: {error}"))
}

/// The code predictor with a stopwatch in its state.
pub(crate) struct Timed(pub(crate) CodePredictor);

impl omni_core::CodePredictor for Timed {
    type State = (PredictorState, Duration);

    fn start(&self, sampling: &SamplingOptions) -> Self::State {
        (self.0.start(sampling), Duration::ZERO)
    }

    fn predict(&self, (state, spent): &mut Self::State, hidden: Tensor<3>, first: Tensor<3>) -> FrameCodes {
        let started = Instant::now();
        let codes = self.0.predict(state, hidden, first);
        *spent += started.elapsed();
        codes
    }
}
