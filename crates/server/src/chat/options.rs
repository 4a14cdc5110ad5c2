//! Options of an answer.

use std::collections::BTreeMap;

use qwen3_omni::{GenerateOptions, SamplingOptions};
use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Most strings that end an answer.
const MOST_STOPS: usize = 16;
/// Most answers to one request.
const MOST_CHOICES: i64 = 16;
/// Most likely tokens that are told beside the chosen one.
const MOST_LOG_PROBS: i64 = 20;
/// The least temperature that is not greedy.
const LEAST_TEMPERATURE: f32 = 1e-3;

pub(super) struct ReadOptions {
    pub(super) options: GenerateOptions,
    pub(super) choices: usize,
}

/// Reads everything that does not concern tools, formats and voices.
pub(super) fn read(app: &App, fields: &Fields) -> ApiResult<ReadOptions> {
    let mut options = GenerateOptions::default()
        .max_new_tokens(limit(app, fields)?)
        .thinker(sampling(app, fields, SamplingOptions::default(), "", Penalties::Read)?)
        .stop(stops(fields)?)
        .seed(fields.integer("seed", i64::MIN..=i64::MAX)?.unwrap_or(0) as u64)
        .log_probs(log_probs(fields)?);
    options = with_talker(app, fields, options)?;
    options = with_video(fields, options)?;
    if let Some(arguments) = fields.object("chat_template_kwargs")?
        && let Some(thinks) = arguments.flag("enable_thinking")?
    {
        options = options.enable_thinking(thinks);
    }
    let choices = fields.integer("n", 1..=MOST_CHOICES)?.unwrap_or(1) as usize;
    Ok(ReadOptions { options, choices })
}

/// Most text tokens: as asked, or what the server allows.
fn limit(app: &App, fields: &Fields) -> ApiResult<usize> {
    let asked = match fields.count("max_completion_tokens", 1)? {
        Some(limit) => fields.count("max_tokens", 1).map(|_| Some(limit))?,
        None => fields.count("max_tokens", 1)?,
    };
    Ok(asked.unwrap_or(app.config.max_output_tokens).min(app.omni.context_length()))
}

/// Whether penalties on presence and frequency can be asked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Penalties {
    Read,
    None,
}

/// Reads sampling options whose fields begin with `prefix`; what is not said stays as in `usual`.
///
/// # Errors
/// 400 that names the field.
pub(super) fn sampling(
    app: &App,
    fields: &Fields,
    usual: SamplingOptions,
    prefix: &str,
    penalties: Penalties,
) -> ApiResult<SamplingOptions> {
    let name = |field: &str| format!("{prefix}{field}");
    let number = |field: &str, least: f64, most: f64| {
        fields.number(&name(field), least..=most).map(|number| number.map(|number| number as f32))
    };
    let mut sampling = usual;
    if let Some(temperature) = number("temperature", 0.0, 2.0)? {
        sampling.greedy = temperature == 0.0;
        sampling.temperature = temperature.max(LEAST_TEMPERATURE);
    }
    match number("top_p", 0.0, 1.0)? {
        // Nothing but the likeliest is left.
        Some(0.0) => sampling.greedy = true,
        Some(top_p) => sampling.top_p = top_p,
        None => {}
    }
    if let Some(top_k) = fields.integer(&name("top_k"), -1..=i64::from(u32::MAX))? {
        sampling.top_k = top_k.max(0) as usize;
    }
    if let Some(penalty) = number("repetition_penalty", 0.01, 100.0)? {
        sampling.repetition_penalty = penalty;
    }
    if penalties == Penalties::Read {
        sampling.min_p = number("min_p", 0.0, 1.0)?.unwrap_or(sampling.min_p);
        sampling.presence_penalty = number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0);
        sampling.frequency_penalty = number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0);
        sampling.logit_bias = bias(app, fields)?;
    }
    Ok(sampling)
}

fn bias(app: &App, fields: &Fields) -> ApiResult<BTreeMap<u32, f32>> {
    let ids = app.omni.config().thinker.text.vocab_size;
    let Some(Value::Object(biases)) = fields.get("logit_bias") else {
        return fields.object("logit_bias").map(|_| BTreeMap::new());
    };
    let read = |(id, bias): (&String, &Value)| {
        let wrong = || ApiError::invalid("logit_bias", "expected token ids with numbers from -100 to 100");
        let bias = bias.as_f64().filter(|bias| bias.abs() <= 100.0);
        let id = id.parse().ok().filter(|id| (*id as usize) < ids);
        Ok((id.ok_or_else(wrong)?, bias.ok_or_else(wrong)? as f32))
    };
    biases.iter().map(read).collect()
}

fn stops(fields: &Fields) -> ApiResult<Vec<String>> {
    let wrong =
        || ApiError::invalid("stop", format_args!("expected a string or up to {MOST_STOPS}, none of them empty"));
    let stops = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) => {
            stops.iter().map(|stop| stop.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    match stops.len() > MOST_STOPS || stops.iter().any(String::is_empty) {
        true => Err(wrong()),
        false => Ok(stops),
    }
}

fn log_probs(fields: &Fields) -> ApiResult<Option<usize>> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0..=MOST_LOG_PROBS)? {
        Some(1..) if !wanted => Err(ApiError::invalid("top_logprobs", "set, but `logprobs` is not true")),
        best => Ok(wanted.then_some(best.unwrap_or(0) as usize)),
    }
}

/// Options of the talker: those that SGLang-Omni's clients know.
fn with_talker(app: &App, fields: &Fields, mut options: GenerateOptions) -> ApiResult<GenerateOptions> {
    let usual = app.omni.talker_sampling();
    let read = sampling(app, fields, usual.clone(), "talker_", Penalties::None)?;
    if read != usual {
        options = options.talker(read);
    }
    if let Some(most) = fields.count("talker_max_new_tokens", 1)? {
        options = options.max_codes(most);
    }
    Ok(options)
}

/// Options of videos, under vLLM's names or SGLang's.
fn with_video(fields: &Fields, mut options: GenerateOptions) -> ApiResult<GenerateOptions> {
    const RATES: std::ops::RangeInclusive<f64> = 0.01..=240.0;
    let arguments = fields.object("mm_processor_kwargs")?;
    let (mut heard, mut rate) = (fields.flag("use_audio_in_video")?, fields.number("video_fps", RATES)?);
    if let Some(arguments) = arguments {
        heard = arguments.flag("use_audio_in_video")?.or(heard);
        rate = arguments.number("fps", RATES)?.or(rate);
    }
    if let Some(rate) = rate {
        options.video = options.video.frames_per_second(rate);
    }
    Ok(options.audio_in_video(heard.unwrap_or(false)))
}
