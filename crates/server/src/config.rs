use std::time::Duration;

/// Settings of a server. `Default` fits a machine of one's own: no key, nothing is fetched for a client.
///
/// ```
/// use qwen3_omni_server::Config;
///
/// let config = Config::default().model_name("omni").api_keys(["sk-mine"]).max_answers(4);
/// ```
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct Config {
    /// Name under which the model is listed and asked for.
    pub model_name: String,
    /// Keys of which each request must bring one; none leaves the server open. They are never logged.
    pub api_keys: Vec<String>,
    /// Origins, as `https://example.org`, whose pages may call the server from a browser, besides the server's own.
    pub allowed_origins: Vec<String>,
    /// Host names under which the server is reached; requests for another one are refused, which protects a local server from pages that
    /// rebind their name to its address. `None` takes any.
    pub allowed_hosts: Option<Vec<String>>,
    /// Hosts from which media are fetched for clients, by name or `name:port`.
    pub allowed_media_hosts: Vec<String>,
    /// Answers that are generated at once. The model must have been loaded for as many ([`OmniBuilder::max_answers`]), and better a few
    /// more: an answer that was cancelled ends with the step it is in.
    ///
    /// [`OmniBuilder::max_answers`]: qwen3_omni::OmniBuilder::max_answers
    pub max_answers: usize,
    /// Requests that may wait for one of these places; one more is refused with 429.
    pub max_waiting: usize,
    /// Time after which a waiting request is refused with 429.
    pub queue_time: Duration,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Pixels of a picture, by its header.
    pub max_pixels: usize,
    /// Text tokens of an answer whose request names no limit.
    pub max_output_tokens: usize,
    /// Time within which a request's body must have come.
    pub body_time: Duration,
    /// Time within which an answer must be complete.
    pub request_time: Duration,
    /// Realtime sessions that are open at once.
    pub max_sessions: usize,
    /// Time after which a realtime session ends.
    pub session_time: Duration,
    /// What the model is asked of a recording that is to be transcribed.
    pub transcription_prompt: String,
    /// What the model is asked before it reads a text aloud; `{text}` stands for the text.
    pub speech_prompt: String,
    /// Name of the field for thinking text: `reasoning_content`, or `reasoning` for some clients.
    pub reasoning_field: String,
}

qwen3_omni::contracts::setters! { Config {
    model_name: impl Into<String> => model_name.into(),
    api_keys: impl IntoIterator<Item = impl Into<String>> => api_keys.into_iter().map(Into::into).collect(),
    allowed_origins: impl IntoIterator<Item = impl Into<String>> => allowed_origins.into_iter().map(Into::into).collect(),
    allowed_hosts: impl Into<Option<Vec<String>>> => allowed_hosts.into(),
    allowed_media_hosts: impl IntoIterator<Item = impl Into<String>> => allowed_media_hosts.into_iter().map(Into::into).collect(),
    max_answers: usize => max_answers,
    max_waiting: usize => max_waiting,
    queue_time: Duration => queue_time,
    max_body: usize => max_body,
    max_pixels: usize => max_pixels,
    max_output_tokens: usize => max_output_tokens,
    body_time: Duration => body_time,
    request_time: Duration => request_time,
    max_sessions: usize => max_sessions,
    session_time: Duration => session_time,
    transcription_prompt: impl Into<String> => transcription_prompt.into(),
    speech_prompt: impl Into<String> => speech_prompt.into(),
    reasoning_field: impl Into<String> => reasoning_field.into(),
} }

impl Default for Config {
    fn default() -> Self {
        Self {
            model_name: "qwen3-omni".into(),
            api_keys: Vec::new(),
            allowed_origins: Vec::new(),
            allowed_hosts: None,
            allowed_media_hosts: Vec::new(),
            max_answers: 8,
            max_waiting: 32,
            queue_time: Duration::from_secs(30),
            max_body: 64 << 20,
            max_pixels: 64_000_000,
            max_output_tokens: 1024,
            body_time: Duration::from_secs(60),
            request_time: Duration::from_secs(600),
            max_sessions: 32,
            session_time: Duration::from_secs(3600),
            transcription_prompt: qwen3_omni::TRANSCRIBE.into(),
            speech_prompt: qwen3_omni::READ_ALOUD.into(),
            reasoning_field: "reasoning_content".into(),
        }
    }
}
