use burn::tensor::{Int, Tensor, TensorData};
use checkpoint::Component;
use media::video::clip;
use moe_talker::{Conversation, SpeakOptions, SpeakProbe, Talker, TalkerPrompt, speaker_id};
use moe_thinker::{Thinker, merge};
use mtp::CodePredictor;
use nn::{Sampler, id_row};
use omni_core::{
    DecoderInput, Error, Positions, Result, SamplingOptions, Stage, TalkerInput, TalkerOutput, Thinker as _,
};
use qwen3_omni::Tokenizer;
use serde_json::Value;
use tm_rope::MediaLayout;

use super::case::{Case, NEAR, STATES};
use super::golden::settings;
use super::predictor::Recording;
use super::recorder::{Recorder, host_ints};
use super::thinker::{self, Answer, Prompt, answer};
use super::{Model, audio, vision};

/// From a conversation to samples: greedy text, greedy codes, repetition penalty and suppression on.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let settings = settings(&model.golden, case.name())?;
    let thinker = Thinker::load(&model.checked(Component::Thinker)?, model.config())?;
    compare_features(model, case, &settings)?;
    let joint = settings["use_audio_in_video"].as_bool().unwrap_or(false);
    let media = thinker::encode(model, case)?;
    let layout = thinker::layout(model, &media, joint);
    let prompt = prompt(model, case, &settings, &layout)?;
    let (positions, delta) = layout.positions(&prompt)?;
    let (embeds, visual) = merge(thinker.embed(id_row(&prompt, &model.device)), &prompt, &layout.ids, media)?;
    let laid_out = Prompt { input: DecoderInput { embeds, positions, left_padding: Vec::new(), visual }, delta };
    let said = answer(model, &thinker, &prompt, laid_out, count(&settings, "thinker_max_new_tokens", 1024))?;
    compare_thinker(case, &said);

    let talker = Talker::load(&model.checked(Component::Talker)?, model.config())?;
    let media: Vec<i64> = talker.media_places(&prompt).into_iter().map(|place| place as i64).collect();
    let conversation = Conversation {
        prompt: &prompt,
        // The reference's talker never hears the last generated token.
        answer: &said.sequence[prompt.len()..said.sequence.len() - 1],
        speaker: speaker_id(&model.config().talker()?.speaker_id, settings["speaker"].as_str().unwrap_or("Ethan"))?,
        embed: &|ids| thinker.embed(ids),
        tap: said.tap.filter(|_| !media.is_empty()).map(|tap| {
            let places = TensorData::new(media.clone(), [media.len()]);
            tap.clone().select(1, Tensor::from_data(places, &tap.device()))
        }),
    };
    let laid_out = talker.prompt(&conversation)?.ok_or_else(|| Error::Request("the answer is empty".into()))?;
    // The reference does not tell its talker of sound in video.
    let positions = layout.plain_positions(&laid_out.ids)?;
    compare_prompt(case, &talker, &laid_out, &positions.0)?;
    let codes = speak(model, case, (&talker, &laid_out, positions), &settings)?;
    let vocoder = code2wav::Code2Wav::load(&model.checked(Component::Code2Wav)?, model.config())?;
    case.compare("wav", vocoder.decode_chunked(codes, Default::default()), STATES);
    Ok(())
}

/// Raw media of the case to the encoders' inputs, through the media path.
fn compare_features(model: &Model, case: &mut Case, settings: &Value) -> Result<()> {
    let named = |error: media::MediaError| error.in_part("the golden case");
    if case.has("waveform") {
        let waveform = case.floats("waveform")?;
        audio::compare_mel(case, vec![waveform])?;
    }
    if case.has("frames_u8") {
        let bounds = serde_json::from_value(settings["video_pixel_bounds"].clone()).unwrap_or(None);
        let fps = f64::from(case.floats("fps")?[0]);
        let input = vision::frames(case, fps)?;
        let clip = clip(&input, &vision::video_options(model, bounds)).map_err(named)?;
        vision::compare_patches(case, clip.patches(), ["pixel_values_videos", "video_grid_thw"]);
        case.compare_values("video_second_per_grid", &[clip.seconds_per_step()], &[1], 0.0);
    }
    if case.has("pixel_values") {
        vision::image(model, case)?;
    }
    Ok(())
}

fn count(settings: &Value, key: &str, default: usize) -> usize {
    settings[key].as_u64().map_or(default, |n| n as usize)
}

/// The prompt's ids: from the text of the settings with its placeholders expanded, and equal to those stored.
fn prompt(model: &Model, case: &mut Case, settings: &Value, layout: &MediaLayout) -> Result<Vec<u32>> {
    let text = settings["prompt_text"].as_str();
    let text = text.ok_or_else(|| Error::Request(format!("the settings of `{}` have no prompt_text", case.name())))?;
    let short = Tokenizer::from_directory(&model.directory)?.encode(text)?;
    let audio_end = model.config().thinker.audio_end_token_id.unwrap_or_default();
    let ids = layout.expand(&short, audio_end)?;
    let values: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("input_ids", &values, &[1, values.len()]);
    case.compare_ints("attention_mask", &vec![1; values.len()], &[1, values.len()]);
    Ok(ids)
}

fn compare_thinker(case: &mut Case, said: &Answer) {
    let sequence: Vec<i64> = said.sequence.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("thinker_sequence", &sequence, &[1, sequence.len()]);
    case.compare("thinker_embed", said.embeds.clone(), STATES);
    if let Some(tap) = &said.tap {
        case.compare("thinker_accept_hidden", tap.clone(), STATES);
    }
}

/// The talker's prompt, and the prompt through every layer.
fn compare_prompt(case: &mut Case, talker: &Talker, prompt: &TalkerPrompt, positions: &Positions) -> Result<()> {
    case.compare("talker_input_embeds", prompt.embeds.clone(), STATES);
    let ids: Vec<i64> = prompt.ids.iter().map(|id| i64::from(*id)).collect();
    case.compare_ints("talker_input_ids", &ids, &[1, ids.len()]);
    let axes = [positions.axis(0), positions.axis(1), positions.axis(2)].concat();
    case.compare_values("talker_position_ids", &axes, &[3, 1, ids.len()], 0.0);
    case.compare("trailing_text_hidden", prompt.trailing.clone(), NEAR);
    case.compare("tts_pad_embed", prompt.pad.clone(), NEAR);
    let mut recorder = Recorder::default();
    let input = TalkerInput { embeds: prompt.embeds.clone(), positions: positions.clone() };
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
    (talker, prompt, positions): (&Talker, &TalkerPrompt, (Positions, f32)),
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
    let mut speaking = talker.begin(prompt, positions, &predictor, &options, &mut steps)?;
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
