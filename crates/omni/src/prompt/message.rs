use std::str::FromStr;

use media::audio::AudioInput;
use media::image::ImageInput;
use media::video::VideoInput;
use omni_core::{Encoded, Error, Result, SpanLayout};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The role of a message's author.
///
/// ```
/// use qwen3_omni::{Message, Role};
///
/// // From a log with names.
/// let message = Message::new("assistant".parse()?).text("It is nine.");
/// assert_eq!(message.role(), Role::Assistant);
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions for the model.
    System,
    /// The person.
    User,
    /// The model, in an earlier turn.
    Assistant,
    /// The result of a function the model called.
    Tool,
}

impl Role {
    /// The name that the chat template uses.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Role::System, Role::User, Role::Assistant, Role::Tool];
        let unknown = || Error::Request(format!("`{name}` is no role: expected system, user, assistant or tool"));
        all.into_iter().find(|role| role.name() == name).ok_or_else(unknown)
    }
}

/// One part of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text(String),
    /// Sound: a file, its bytes, or samples.
    Audio(AudioInput),
    /// A picture: a file, its bytes, or pixels.
    Image(ImageInput),
    /// A video: a file, its bytes, or chosen frames.
    Video {
        /// The frames.
        video: VideoInput,
        /// Its sound.
        sound: VideoSound,
    },
    /// Rows of a custom encoder: one item, which its span marks as sound, a picture or a video. They cannot be serialised.
    #[serde(skip)]
    Encoded(Box<Encoded>),
}

impl Part {
    /// The kind of the part.
    pub fn kind(&self) -> PartKind {
        match self {
            Part::Text(_) => PartKind::Text,
            Part::Audio(_) => PartKind::Audio,
            Part::Image(_) => PartKind::Image,
            Part::Video { .. } => PartKind::Video,
            Part::Encoded(encoded) => match encoded.spans.first() {
                Some(SpanLayout::Grid { t: 1, seconds_per_step: 0.0, .. }) => PartKind::Image,
                Some(SpanLayout::Grid { .. }) => PartKind::Video,
                _ => PartKind::Audio,
            },
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Part::Text(text) if text.is_empty())
    }

    fn to_json(&self) -> Value {
        match self {
            Part::Text(text) => json!({"type": "text", "text": text}),
            other => json!({"type": other.kind().name()}),
        }
    }
}

/// The sound of a video, which is interleaved with its frames.
///
/// ```
/// use qwen3_omni::{Message, VideoSound};
///
/// let heard = Message::user().video_with("speech.mp4", VideoSound::Track).text("What is said?");
/// ```
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VideoSound {
    /// The sound track of the file if [`crate::GenerateOptions::audio_in_video`] is set; a video without one is seen in silence.
    #[default]
    Auto,
    /// The sound track of the file, whatever the options say; a video without one is an error.
    Track,
    /// None, whatever the options say.
    Silent,
    /// This sound if [`crate::GenerateOptions::audio_in_video`] is set.
    Given(AudioInput),
    /// This sound, whatever the options say.
    Always(AudioInput),
}

/// Kind of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// Text.
    Text,
    /// Sound.
    Audio,
    /// A picture.
    Image,
    /// A video.
    Video,
}

impl PartKind {
    /// The name that the chat template uses.
    pub fn name(self) -> &'static str {
        match self {
            PartKind::Text => "text",
            PartKind::Audio => "audio",
            PartKind::Image => "image",
            PartKind::Video => "video",
        }
    }
}

/// One turn of a conversation.
///
/// ```
/// use qwen3_omni::{AudioInput, Message, Role};
///
/// let beep = AudioInput::samples(vec![0.1; 16_000], 16_000, 1);
/// let question = Message::user().text("What do you hear and see?").audio(beep).image("cat.png");
/// assert_eq!((question.role(), question.parts().len()), (Role::User, 3));
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct Message {
    role: Role,
    #[serde(default)]
    parts: Vec<Part>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
}

impl Message {
    /// Makes a message with instructions for the model.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System).text(text)
    }

    /// Makes an empty user message, to be filled with parts.
    pub fn user() -> Self {
        Self::new(Role::User)
    }

    /// Makes a message that the model wrote in an earlier turn.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant).text(text)
    }

    /// Makes a message with the result of a function the model called.
    pub fn tool(result: impl Into<String>) -> Self {
        Self::new(Role::Tool).text(result)
    }

    /// Makes an empty message of any role.
    pub fn new(role: Role) -> Self {
        Self { role, parts: Vec::new(), tool_calls: Vec::new(), thinking: None }
    }

    /// Adds a part.
    pub fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// Adds text.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.part(Part::Text(text.into()))
    }

    /// Adds sound: a path, bytes, or [`AudioInput::samples`].
    pub fn audio(self, audio: impl Into<AudioInput>) -> Self {
        self.part(Part::Audio(audio.into()))
    }

    /// Adds a picture: a path, bytes, or [`crate::media::image::Pixels`].
    pub fn image(self, image: impl Into<ImageInput>) -> Self {
        self.part(Part::Image(image.into()))
    }

    /// Adds a video: a path, bytes, or [`VideoInput::frames`].
    pub fn video(self, video: impl Into<VideoInput>) -> Self {
        self.video_with(video, VideoSound::Auto)
    }

    /// Adds a video with separate sound, which is used only with [`crate::GenerateOptions::audio_in_video`].
    pub fn video_with_sound(self, video: impl Into<VideoInput>, sound: impl Into<AudioInput>) -> Self {
        self.video_with(video, VideoSound::Given(sound.into()))
    }

    /// Adds a video and says whether its sound is heard.
    pub fn video_with(self, video: impl Into<VideoInput>, sound: VideoSound) -> Self {
        self.part(Part::Video { video: video.into(), sound })
    }

    /// Adds rows of a custom encoder: one item.
    pub fn encoded(self, encoded: Encoded) -> Self {
        self.part(Part::Encoded(Box::new(encoded)))
    }

    /// Adds a function call that the model made in this message.
    ///
    /// ```
    /// use qwen3_omni::Message;
    /// use serde_json::json;
    ///
    /// let call = Message::assistant("").tool_call("weather", json!({"city": "Lisbon"}));
    /// let chat = [Message::user().text("Do I need an umbrella?"), call, Message::tool("light rain")];
    /// ```
    pub fn tool_call(mut self, name: impl Into<String>, arguments: Value) -> Self {
        self.tool_calls.push(json!({"name": name.into(), "arguments": arguments}));
        self
    }

    /// Sets what the model thought before it wrote this message. The released template repeats it behind the last question only, so that a
    /// model that calls functions goes on thinking where it was.
    ///
    /// ```
    /// use qwen3_omni::Message;
    /// use serde_json::json;
    ///
    /// let call = Message::assistant("").thinking("I need the weather.").tool_call("weather", json!({"city": "Lisbon"}));
    /// assert!(call.thoughts().is_some());
    /// ```
    pub fn thinking(mut self, text: impl Into<String>) -> Self {
        self.thinking = Some(text.into());
        self
    }

    pub(crate) fn parts_mut(&mut self) -> &mut [Part] {
        &mut self.parts
    }

    /// The role of the author.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The function calls, each with `name` and `arguments`.
    pub fn tool_calls(&self) -> &[Value] {
        &self.tool_calls
    }

    /// What the model thought before it wrote this message.
    pub fn thoughts(&self) -> Option<&str> {
        self.thinking.as_deref()
    }

    /// The parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether the message asks nothing. A tool may have no result, and a system text or an answer may be left empty.
    fn is_empty(&self) -> bool {
        self.role == Role::User && self.tool_calls.is_empty() && self.parts.iter().all(Part::is_empty)
    }

    /// The form that chat templates take. Text alone is a string, as templates of text models expect; otherwise the content is a
    /// list of typed parts.
    fn to_json(&self) -> Value {
        let text: Option<String> = self
            .parts
            .iter()
            .map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
            .collect();
        let content = text.map_or_else(|| self.parts.iter().map(Part::to_json).collect(), Value::String);
        let mut message = json!({"role": self.role.name(), "content": content});
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = Value::Array(self.tool_calls.clone());
        }
        if let Some(thinking) = &self.thinking {
            message["reasoning_content"] = json!(thinking);
        }
        message
    }
}

/// Checks a conversation that is to be answered and converts it to the form that chat templates take.
///
/// # Errors
/// [`Error::Request`] if there is nothing to answer.
pub(crate) fn conversation(messages: &[Message]) -> Result<Value> {
    check(messages)?;
    if let Some(Message { role, .. }) = messages.last().filter(|last| !matches!(last.role, Role::User | Role::Tool)) {
        let role = role.name();
        return Err(Error::Request(format!(
            "the conversation ends with a turn of `{role}`: expected a user or tool message to answer"
        )));
    }
    Ok(messages.iter().map(Message::to_json).collect())
}

/// Checks a whole conversation, its answers included, and converts it to the form that chat templates take. Every content is a list of
/// parts: for a text the released template would write an empty thinking part before the last answer.
///
/// # Errors
/// [`Error::Request`] for an empty conversation or user message, and for media outside user messages.
pub(crate) fn whole_conversation(messages: &[Message]) -> Result<Value> {
    check(messages)?;
    let listed = messages.iter().map(|message| {
        let mut json = message.to_json();
        json["content"] = message.parts.iter().map(Part::to_json).collect();
        json
    });
    Ok(listed.collect())
}

fn check(messages: &[Message]) -> Result<()> {
    let refuse = |reason: String| Err(Error::Request(reason));
    if messages.is_empty() {
        return refuse("the conversation is empty: expected at least one user message".into());
    }
    if let Some(index) = messages.iter().position(Message::is_empty) {
        let role = messages[index].role.name();
        return refuse(format!("message {} ({role}) is empty: expected at least one part with content", index + 1));
    }
    let media = |message: &Message| message.parts.iter().any(|part| part.kind() != PartKind::Text);
    if let Some(index) = messages.iter().position(|message| message.role != Role::User && media(message)) {
        let role = messages[index].role.name();
        return refuse(format!("message {} ({role}) holds media: expected them in user messages", index + 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_without_a_question_are_refused_with_the_reason() {
        let hello = || Message::user().text("hello");
        let cases = [
            (vec![], "is empty"),
            (vec![hello(), Message::user()], "message 2 (user) is empty"),
            (vec![Message::user().text("")], "message 1 (user) is empty"),
            (vec![Message::system(""), Message::user()], "message 2 (user) is empty"),
            (vec![hello(), Message::assistant("hi")], "`assistant`"),
            (vec![Message::system("be kind")], "`system`"),
            (vec![Message::system("see").image("a.png"), hello()], "message 1 (system) holds media"),
        ];
        for (messages, expected) in cases {
            let message = conversation(&messages).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
