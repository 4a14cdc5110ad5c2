use std::borrow::Cow;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni::media::image::Patches;
use qwen3_omni::{ConversationReader, GenerateOptions, Message, Part, ReadConversation, ReadMedia, Role};
use vision_encoder::PixelPatches;

use super::labels::{LabelIds, conversation_labels, document_labels, last_answer};
use super::line::Line;
use crate::Result;
use crate::model::{Sample, SampleMedia};

/// How lines are read. Each field has a setter of its name.
#[derive(Debug, Clone, Default)]
#[must_use]
#[non_exhaustive]
pub struct SampleOptions {
    /// Options of media and templates, as for an answer.
    pub generate: GenerateOptions,
    /// Only the last answer is learned.
    pub last_turn: bool,
    /// Lines are read as the text decoder of the audio encoder reads them: one sound each, the keys `task` and `language`, and a text.
    pub recognition: bool,
    /// Reasoning is left out of the last answer too, for what is spoken.
    pub without_reasoning: bool,
    /// Most tokens of a line; by default as many as the model has positions for.
    pub context: Option<usize>,
}

omni_core::setters! { SampleOptions {
    generate: GenerateOptions,
    last_turn: bool,
    without_reasoning: bool,
    recognition: bool,
    context: impl Into<Option<usize>> => context.into(),
} }

/// Reads lines as the model reads conversations, without its weights.
#[derive(Debug)]
pub struct SampleReader {
    reader: ConversationReader,
    ids: LabelIds,
    options: SampleOptions,
    context: usize,
}

/// One line as ids, labels and decoded media, not yet on a device.
#[derive(Debug)]
pub struct ReadSample {
    /// Token ids, placeholders expanded.
    pub ids: Vec<u32>,
    /// The label of each token, at its own index.
    pub labels: Vec<Option<u32>>,
    /// Media in order of appearance; the sound of a video stands behind it.
    pub media: Vec<ReadMedia>,
    /// Whether each video brings its own sound, interleaved.
    pub audio_in_video: Vec<bool>,
}

impl SampleReader {
    /// Reads a checkpoint directory's config, tokenizer and chat template.
    ///
    /// # Errors
    /// The errors of [`ConversationReader::open`].
    pub fn open(directory: impl AsRef<Path>, options: SampleOptions) -> Result<Self> {
        let reader = ConversationReader::open(directory)?;
        let positions = reader.config().thinker.text.max_position_embeddings;
        let context = options.context.unwrap_or(positions).min(positions);
        Ok(Self { ids: LabelIds::new(reader.config()), reader, options, context })
    }

    /// The reader of conversations.
    pub fn conversations(&self) -> &ConversationReader {
        &self.reader
    }

    pub(super) fn label_ids(&self) -> &LabelIds {
        &self.ids
    }

    /// The id that ends a turn.
    pub fn end_of_turn(&self) -> u32 {
        self.ids.im_end
    }

    /// Most tokens of a line.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Reads a line: a conversation, or a text for pre-training, which is encoded without a turn around it and ends with `<|im_end|>`.
    ///
    /// # Errors
    /// [`crate::Error::Conversation`] naming the line, with [`omni_core::Error::ContextLength`] for one that is too long;
    /// [`crate::Error::Data`] for reasoning in an answer that is learned and is not the last message.
    pub fn read(&self, line: &Line) -> Result<ReadSample> {
        let read = match line.document() {
            _ if self.options.recognition => self.recognition(line),
            Some(text) => self.document(&text, line),
            None => self.conversation(line),
        };
        read.and_then(|read| self.within_context(read)).map_err(|error| line.blame(error))
    }

    /// Reads a line with its rejected answer in place of the last one, if it has one.
    ///
    /// # Errors
    /// The errors of [`SampleReader::read`].
    pub fn read_rejected(&self, line: &Line) -> Result<Option<ReadSample>> {
        line.rejected.as_ref().map(|text| self.read(&line.with_answer(text))).transpose()
    }

    fn document(&self, text: &str, line: &Line) -> Result<ReadSample> {
        let mut ids = self.reader.tokenizer().encode_as_text(text)?;
        ids.push(self.ids.im_end);
        let labels = match line.learns.contains(&true) {
            true => document_labels(&ids, &self.ids),
            false => vec![None; ids.len()],
        };
        Ok(ReadSample { ids, labels, media: Vec::new(), audio_in_video: Vec::new() })
    }

    fn conversation(&self, line: &Line) -> Result<ReadSample> {
        let learns = self.learned(line);
        let (messages, reasoning) = without_reasoning(line, &learns)?;
        let ReadConversation { mut ids, media, audio_in_video } =
            self.reader.read(&messages, &line.answer_options(&self.options.generate))?;
        if let Some(reasoning) = reasoning.filter(|_| !self.options.without_reasoning) {
            let start = last_answer(&ids, &self.ids).ok_or_else(|| line.location.refuse("no answer to reason for"))?;
            ids.splice(start..start, self.reasoning(&reasoning)?);
        }
        let labels = conversation_labels(&ids, &self.ids, &learns)?;
        Ok(ReadSample { ids, labels, media, audio_in_video })
    }

    /// Ids of a reasoning with its marks, as a model writes it in front of an answer.
    fn reasoning(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.reader.tokenizer();
        let inside = tokenizer.encode_as_text(&format!("\n{text}\n"))?;
        Ok([tokenizer.encode(OPENS)?, inside, tokenizer.encode(&format!("{CLOSES}\n\n"))?].concat())
    }

    fn learned(&self, line: &Line) -> Vec<bool> {
        let mut learns = line.learns.clone();
        if let (true, Some((_, earlier))) = (self.options.last_turn, learns.split_last_mut()) {
            earlier.fill(false);
        }
        learns
    }

    fn within_context(&self, read: ReadSample) -> Result<ReadSample> {
        let (tokens, limit) = (read.ids.len(), self.context);
        match tokens > limit {
            true => Err(omni_core::Error::ContextLength { tokens, limit }.into()),
            false => Ok(read),
        }
    }
}

impl ReadSample {
    /// Number of tokens that are learned.
    pub fn learned(&self) -> usize {
        // The first token has no row that could predict it.
        self.labels.iter().skip(1).flatten().count()
    }

    /// Puts the sample on a device.
    pub fn to_sample(self, device: &Device) -> Sample {
        let mut media = SampleMedia { audio_in_video: self.audio_in_video, ..SampleMedia::default() };
        for item in self.media {
            match item {
                ReadMedia::Sound(mel) => {
                    let shape = [mel.frames(), mel.bins()];
                    media.sounds.push(Tensor::from_data(TensorData::new(mel.into_values(), shape), device));
                }
                ReadMedia::Picture(patches) => media.pictures.push(pixels(&patches, 0.0, device)),
                ReadMedia::Video(clip) => {
                    media.videos.push(pixels(clip.patches(), clip.seconds_per_step(), device));
                }
            }
        }
        Sample { ids: self.ids, labels: self.labels, media, text_from: None }
    }
}

fn pixels(patches: &Patches, seconds_per_step: f32, device: &Device) -> PixelPatches {
    let shape = [patches.patches(), patches.patch_len()];
    let values = TensorData::new(patches.to_values(), shape);
    PixelPatches { patches: Tensor::from_data(values, device), grid: patches.grid(), seconds_per_step }
}

/// Marks around reasoning.
const OPENS: &str = "<think>";
const CLOSES: &str = "</think>";

/// Takes the reasoning out of the answers: the template leaves it out of a conversation that it writes as a whole, and of earlier
/// answers a model never sees it. Returns that of the last answer.
fn without_reasoning<'a>(line: &'a Line, learns: &[bool]) -> Result<(Cow<'a, [Message]>, Option<String>)> {
    let mut messages = Cow::Borrowed(&line.messages[..]);
    let (mut reasoning, mut learns) = (None, learns.iter());
    for (index, message) in line.messages.iter().enumerate().filter(|(_, message)| message.role() == Role::Assistant) {
        let learned = learns.next().copied().unwrap_or(false);
        let Some((thought, answer)) = split_reasoning(message) else { continue };
        let last = index + 1 == line.messages.len();
        if learned && !last {
            let reason = "holds reasoning, expected that in the last message only, or `loss` false: a model does not see earlier reasoning";
            return Err(line.location.refuse(format!("message {} {reason}", index + 1)));
        }
        messages.to_mut()[index] = answer;
        reasoning = last.then_some(thought);
    }
    Ok((messages, reasoning))
}

/// The reasoning of an answer, and the answer without it.
pub(crate) fn split_reasoning(message: &Message) -> Option<(String, Message)> {
    let text: Option<String> = message
        .parts()
        .iter()
        .map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let text = text?;
    let (before, answer) = text.split_once(CLOSES)?;
    let thought = before.split_once(OPENS).map_or(before, |(_, thought)| thought).trim_matches('\n');
    let answer = message.tool_calls().iter().fold(
        Message::new(Role::Assistant).text(answer.trim_start_matches('\n')),
        |message, call| {
            let call = call.get("function").unwrap_or(call);
            let name = call.get("name").and_then(serde_json::Value::as_str).unwrap_or_default();
            message.tool_call(name, call.get("arguments").cloned().unwrap_or_default())
        },
    );
    Some((thought.to_owned(), answer))
}
