//! What a request says of the voice.

use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::sound::Format;

/// The voice and the form of its sound.
#[derive(Debug, Clone)]
pub(super) struct SpokenForm {
    pub(super) voice: String,
    pub(super) format: Format,
}

/// Reads `modalities` and `audio`; `None` for an answer that is not spoken.
pub(super) fn read(app: &App, fields: &Fields, stream: bool) -> ApiResult<Option<SpokenForm>> {
    if !wants_audio(fields)? {
        return Ok(None);
    }
    let audio = fields.object("audio")?;
    let audio = fields.required("audio", audio)?;
    let voice = audio.required("voice", voice(app, &audio)?)?;
    let formats = [
        ("wav", Format::Wav),
        ("mp3", Format::Mp3),
        ("flac", Format::Flac),
        ("opus", Format::Opus),
        ("pcm16", Format::Pcm),
    ];
    let format = audio.one_of("format", &formats)?;
    let format = audio.required("format", format)?;
    if stream && format != Format::Pcm {
        return Err(ApiError::unsupported("audio.format", "streams carry pcm16 only"));
    }
    // A form that this build does not write is refused before the answer is made.
    drop(format.encoder(app.omni.sample_rate(), "audio.format")?);
    Ok(Some(SpokenForm { voice, format }))
}

fn wants_audio(fields: &Fields) -> ApiResult<bool> {
    let Some(modalities) = fields.list("modalities")? else { return Ok(false) };
    let mut audio = false;
    for modality in modalities {
        match modality.as_str() {
            Some("text") => {}
            Some("audio") => audio = true,
            _ => return Err(ApiError::unsupported("modalities", "expected text, or text and audio")),
        }
    }
    Ok(audio)
}

/// Reads the field `voice`: a name, or an object with it.
///
/// # Errors
/// 400 that lists the voices.
pub(crate) fn voice(app: &App, fields: &Fields) -> ApiResult<Option<String>> {
    let name = match fields.get("voice") {
        None => return Ok(None),
        Some(Value::Object(voice)) => voice.get("id").or_else(|| voice.get("name")).and_then(Value::as_str),
        Some(voice) => voice.as_str(),
    };
    let param = fields.name("voice");
    let name = name.ok_or_else(|| ApiError::invalid(&param, "expected the name of a voice, or {\"id\": name}"))?;
    app.check_voice(name, param)?;
    Ok(Some(name.to_owned()))
}
