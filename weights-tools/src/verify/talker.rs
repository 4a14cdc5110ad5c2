use burn::tensor::{Int, Tensor};
use checkpoint::Component;
use moe_talker::{Conversation, SpeakOptions, SpeakProbe, Talker, TalkerPrompt, speaker_id};
use moe_thinker::Thinker;
use mtp::CodePredictor;
use nn::Sampler;
use omni_core::{
    Error, Positions, Result, SamplingOptions, SpanLayout, Stage, TalkerInput, TalkerOutput, Thinker as _,
};
use qwen3_omni::Tokenizer;
use serde_json::Value;

use super::Model;
use super::case::{Case, NEAR, STATES};
use super::golden::settings;
use super::predictor::Recording;
use super::recorder::{Recorder, host_ints};
use super::thinker::{Answer, MEDIA, answer};

/// From a conversation to samples: greedy text, greedy codes, repetition penalty and suppression on.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let settings = settings(&model.golden, case.name())?;
    if has_media(&settings["conversation"]) || MEDIA.iter().any(|name| case.has(name)) {
        case.not_covered("the conversation holds media, whose encoders this version does not have");
        return Ok(());
    }
    let thinker = Thinker::load(&model.checked(Component::Thinker)?, model.config())?;
    let prompt = prompt(model, case, &settings)?;
    let said = answer(model, &thinker, &prompt, count(&settings, "thinker_max_new_tokens", 1024))?;
    compare_thinker(case, &said);

    let talker = Talker::load(&model.checked(Component::Talker)?, model.config())?;
    let conversation = Conversation {
        prompt: &prompt,
        // The reference's talker never hears the last generated token.
        answer: &said.sequence[prompt.len()..said.sequence.len() - 1],
        speaker: speaker_id(&model.config().talker()?.speaker_id, settings["speaker"].as_str().unwrap_or("Ethan"))?,
        embed: &|ids| thinker.embed(ids),
    };
    let laid_out = talker.prompt(&conversation)?.ok_or_else(|| Error::Request("the answer is empty".into()))?;
    compare_prompt(model, case, &talker, &laid_out)?;
    let codes = speak(model, case, &talker, &laid_out, &settings)?;
    let vocoder = code2wav::Code2Wav::load(&model.checked(Component::Code2Wav)?, model.config())?;
    case.compare("wav", vocoder.decode_chunked(codes, Default::default()), STATES);
    Ok(())
}

fn has_media(conversation: &Value) -> bool {
    let messages = conversation.as_array().into_iter().flatten();
    let mut parts = messages.flat_map(|message| message["content"].as_array().into_iter().flatten());
    parts.any(|part| part["type"].as_str().is_some_and(|kind| kind != "text"))
}

fn count(settings: &Value, key: &str, default: usize) -> usize {
    settings[key].as_u64().map_or(default, |n| n as usize)
}

/// The prompt's ids: from the text of the settings, and equal to those stored.
fn prompt(model: &Model, case: &mut Case, settings: &Value) -> Result<Vec<u32>> {
    let text = settings["prompt_text"].as_str();
    let text = text.ok_or_else(|| Error::Request(format!("the settings of `{}` have no prompt_text", case.name())))?;
    let ids = Tokenizer::from_directory(&model.directory)?.encode(text)?;
    let values: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("input_ids", &values, &[1, values.len()]);
    case.compare_ints("attention_mask", &vec![1; values.len()], &[1, values.len()]);
    Ok(ids)
}

fn compare_thinker(case: &mut Case, said: &Answer) {
    let sequence: Vec<i64> = said.sequence.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("thinker_sequence", &sequence, &[1, sequence.len()]);
    case.compare("thinker_embed", said.embeds.clone(), NEAR);
    if let Some(tap) = &said.tap {
        case.compare("thinker_accept_hidden", tap.clone(), STATES);
    }
}

fn text_positions(model: &Model, prompt: &TalkerPrompt) -> (Positions, f32) {
    let spans = [SpanLayout::Sequence { tokens: prompt.ids.len() }];
    tm_rope::positions(&spans, model.config().thinker.position_id_per_seconds)
}

/// The talker's prompt, and the prompt through every layer.
fn compare_prompt(model: &Model, case: &mut Case, talker: &Talker, prompt: &TalkerPrompt) -> Result<()> {
    case.compare("talker_input_embeds", prompt.embeds.clone(), NEAR);
    let ids: Vec<i64> = prompt.ids.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("talker_input_ids", &ids, &[1, ids.len()]);
    let (positions, _) = text_positions(model, prompt);
    let axes = [positions.axis(0), positions.axis(1), positions.axis(2)].concat();
    case.compare_values("talker_position_ids", &axes, &[3, 1, ids.len()], 0.0);
    case.compare("trailing_text_hidden", prompt.trailing.clone(), NEAR);
    case.compare("tts_pad_embed", prompt.pad.clone(), NEAR);
    let mut recorder = Recorder::default();
    let input = TalkerInput { embeds: prompt.embeds.clone(), positions };
    let hidden = talker.hidden(&mut talker.start(), input, &mut recorder)?;
    recorder.compare(case, "prefill_");
    case.compare("prefill_hidden", hidden.clone(), STATES);
    case.compare("prefill_logits", talker.logits(hidden), STATES);
    Ok(())
}

/// Keeps what each step of the talker shows.
#[derive(Default)]
struct Steps {
    logits: Vec<Tensor<2>>,
    scores: Vec<Tensor<2>>,
    hidden: Vec<Tensor<3>>,
    codes: Vec<i64>,
    inputs: Vec<Tensor<3>>,
    positions: Vec<f32>,
}

impl SpeakProbe for Steps {
    fn choose(&mut self, output: &TalkerOutput, sampler: &Sampler) {
        self.logits.push(output.logits.clone());
        self.scores.push(sampler.scores(output.logits.clone()));
        self.hidden.push(output.hidden.clone());
    }

    fn chosen(&mut self, code: &Tensor<2, Int>) {
        self.codes.extend(host_ints(code.clone()).0);
    }

    fn input(&mut self, embeds: &Tensor<3>, position: f32) {
        self.inputs.push(embeds.clone());
        self.positions.extend([position; 3]);
    }
}

impl Steps {
    fn compare(self, case: &mut Case) {
        case.compare("step_logits", Tensor::cat(self.logits, 0), STATES);
        case.compare("step_scores", Tensor::cat(self.scores, 0), STATES);
        case.compare("step_hidden", Tensor::cat(self.hidden, 1), STATES);
        case.compare_ints("first_codes", &self.codes, &[self.codes.len()]);
        if !self.inputs.is_empty() {
            case.compare("step_inputs", Tensor::cat(self.inputs, 1), NEAR);
            case.compare_values("step_positions", &self.positions, &[self.positions.len() / 3, 3], 0.0);
        }
    }
}

/// All frames of the speech `[1, Q, F]`.
fn speak(
    model: &Model,
    case: &mut Case,
    talker: &Talker,
    prompt: &TalkerPrompt,
    settings: &Value,
) -> Result<Tensor<3, Int>> {
    let predictor = CodePredictor::load(&model.checked(Component::CodePredictor)?, model.config())?;
    let predictor = Recording::new(predictor);
    let penalty = settings["talker_repetition_penalty"].as_f64().unwrap_or(1.05) as f32;
    let options = SpeakOptions {
        sampling: SamplingOptions { repetition_penalty: penalty, ..SamplingOptions::greedy() },
        residual_sampling: SamplingOptions::greedy(),
        max_codes: count(settings, "talker_max_new_tokens", 4096),
        end_code: settings["talker_eos_token_id"].as_u64().map(|code| code as u32),
    };
    let mut steps = Steps::default();
    let mut speaking = talker.begin(prompt, text_positions(model, prompt), &predictor, &options, &mut steps)?;
    let mut frames = Vec::new();
    let rows = prompt.trailing.dims()[1];
    loop {
        let text = match frames.len() < rows {
            true => prompt.trailing.clone().narrow(1, frames.len(), 1),
            false => prompt.pad.clone(),
        };
        match talker.frame(&mut speaking, &predictor, text, &mut steps)? {
            Some(codes) => frames.push(codes),
            None => break,
        }
    }
    steps.compare(case);
    if let Some((prefills, logits)) = predictor.take() {
        case.compare("code_predictor_prefill", prefills, STATES);
        case.compare("code_predictor_logits", logits, STATES);
    }
    if frames.is_empty() {
        return Err(Error::Request("the first code was the end code: no frames".into()));
    }
    let frames = Tensor::cat(frames, 0); // [F, Q]
    let (codes, shape) = host_ints(frames.clone());
    case.compare_ints("codes", &codes, &shape);
    Ok(frames.swap_dims(0, 1).unsqueeze())
}
