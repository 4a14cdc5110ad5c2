use burn::tensor::{Tensor, TensorData};
use moe_talker::{
    Advance, SpeakOptions, SpeakProbe, Talker, TalkerConfig, TalkerContext, TalkerInput, TalkerOutput, TalkerPrompt,
    TalkerRun, speaker_id,
};
use moe_thinker::{Thinker, ThinkerConfig, ThinkerInput, merge};
use mtp::{CodePredictor, FrameRun};
use nn::Sampler;
use omni_core::{Error, Positions, Result, SamplingOptions};
use serde_json::Value;

use super::case::{Case, NEAR, STATES};
use super::golden::{self, settings};
use super::model::Model;
use super::predictor::Frame;
use super::raw;
use super::recorder::Recorder;
use super::thinker::{self, Answer, answer};

/// Compares the pipeline from a conversation to samples, with the stored ids and codes forced: greedy text, greedy codes,
/// repetition penalty and suppression on.
pub(super) fn run(model: &Model, case: &mut Case) -> Result<()> {
    let settings = settings(&model.golden, case.name())?;
    let thinker = Thinker::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let (config, talker_config): (ThinkerConfig, TalkerConfig) = (model.section()?, model.section()?);
    raw::compare_features(model, case, &settings)?;
    let joint = settings["use_audio_in_video"].as_bool().unwrap_or(false);
    let media = thinker::encode(model, case)?;
    let layout = thinker::layout(&config, &media, joint);
    let prompt = raw::prompt(model, case, &settings, (&layout, config.audio_end_token_id))?;
    let (positions, delta) = layout.positions(&prompt)?;
    let (embeds, visual) = merge(thinker.embed(&prompt), &prompt, &layout.ids, media)?;
    let input = ThinkerInput { embeds, positions, visual, tap: true };
    let sequence = stored_sequence(model, case, &settings)?;
    if !sequence.starts_with(&prompt) {
        return Err(Error::Request("`thinker_sequence` does not begin with the prompt".into()));
    }
    let written = &sequence[prompt.len()..];
    let said = answer(&thinker, input, delta, written)?;
    compare_thinker(model, case, &settings, &said, written);

    let talker = Talker::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let media: Vec<i64> = talker.media_places(&prompt).into_iter().map(|place| place as i64).collect();
    let context = TalkerContext {
        prompt: &prompt,
        // The reference's talker never gets the last generated token.
        answer: &written[..written.len() - 1],
        speaker: speaker_id(&talker_config.speaker_id, settings["speaker"].as_str().unwrap_or("Ethan"))?,
        embed: &|ids| thinker.embed(ids),
        tap: said.tap.filter(|_| !media.is_empty()).map(|tap| {
            let places = TensorData::new(media.clone(), [media.len()]);
            tap.clone().select(0, Tensor::from_data(places, &tap.device()))
        }),
    };
    let laid_out = talker.prompt(&context)?.ok_or_else(|| Error::Request("the answer is empty".into()))?;
    // The reference does not tell its talker of audio in video.
    let positions = layout.plain_positions(&laid_out.ids)?;
    compare_prompt(case, &talker, &laid_out, &positions.0)?;
    let frames = speak(model, case, (&talker, &laid_out, positions), &settings)?;
    let vocoder = code2wav::Code2Wav::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let samples = vocoder.decode_chunked(&frames, Default::default())?;
    case.compare_values("wav", &samples, &[1, samples.len()], STATES);
    Ok(())
}

/// Reads the ids of prompt and answer; a case without them uses those of another one with the same conversation.
fn stored_sequence(model: &Model, case: &mut Case, settings: &Value) -> Result<Vec<u32>> {
    const NAME: &str = "thinker_sequence";
    let ids = match case.has(NAME) {
        true => case.ints(NAME)?,
        false => golden::ints_of_same(&model.golden, settings, "prompt_text", NAME)?,
    };
    Ok(ids.into_iter().map(|id| id as u32).collect())
}

fn count(settings: &Value, key: &str, default: usize) -> usize {
    settings[key].as_u64().map_or(default, |n| n as usize)
}

fn compare_thinker(model: &Model, case: &mut Case, settings: &Value, said: &Answer, written: &[u32]) {
    if case.has("thinker_sequence") {
        case.compare_choices("thinker_sequence", "text", 0, &said.chosen, written);
    }
    // The answer ends with the end token or at the limit: nothing stored is cut off.
    let limit = count(settings, "thinker_max_new_tokens", 1024);
    let ended = written.last().copied() == model.end_id() || written.len() == limit;
    case.compare_text("thinker_sequence, its end", &ended.to_string(), "true");
    case.compare("thinker_embed", said.embeds.clone(), STATES);
    if let Some(tap) = &said.tap {
        case.compare("thinker_accept_hidden", tap.clone(), STATES);
    }
}

/// Compares the talker's prompt, and the states of every layer for it.
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
    let mut state = talker.start();
    let states = talker.states(TalkerRun { state: &mut state, input: &input, probe: Some(&mut recorder) })?;
    recorder.compare(case, "prefill_", &["talker prompt"]);
    case.compare("prefill_hidden", states.hidden, STATES);
    case.compare("prefill_logits", states.logits, STATES);
    Ok(())
}

/// Records the results of each step of the talker, with the stored first codes forced.
#[derive(Default)]
struct Steps {
    logits: Vec<Vec<f32>>,
    scores: Vec<Vec<f32>>,
    hidden: Vec<Tensor<2>>,
    chosen: Vec<u32>,
    stored: Vec<u32>,
    inputs: Vec<Tensor<2>>,
    positions: Vec<f32>,
}

impl SpeakProbe for Steps {
    fn choose(&mut self, output: &TalkerOutput, sampler: &Sampler) {
        self.logits.push(output.logits.to_vec());
        self.scores.push(sampler.scores(&output.logits));
        self.hidden.push(output.hidden.clone());
    }

    fn chosen(&mut self, code: u32) -> u32 {
        self.chosen.push(code);
        self.stored.get(self.chosen.len() - 1).copied().unwrap_or(code)
    }

    fn input(&mut self, embeds: &Tensor<2>, position: f32) {
        self.inputs.push(embeds.clone());
        self.positions.extend([position; 3]);
    }
}

impl Steps {
    fn compare(self, case: &mut Case) {
        for (name, rows) in [("step_logits", self.logits), ("step_scores", self.scores)] {
            let shape = [rows.len(), rows[0].len()];
            case.compare_values(name, &rows.concat(), &shape, STATES);
        }
        case.compare("step_hidden", Tensor::cat(self.hidden, 0), STATES);
        case.compare_choices("first_codes", "first", 0, &self.chosen, &self.stored);
        if !self.inputs.is_empty() {
            case.compare("step_inputs", Tensor::cat(self.inputs, 0), NEAR);
            case.compare_values("step_positions", &self.positions, &[self.positions.len() / 3, 3], 0.0);
        }
    }
}

/// Compares everything that leads to the frames; returns the stored frames `[F, Q]`.
fn speak(
    model: &Model,
    case: &mut Case,
    (talker, prompt, positions): (&Talker, &TalkerPrompt, (Positions, f32)),
    settings: &Value,
) -> Result<Vec<Vec<u32>>> {
    let predictor = CodePredictor::from_checkpoint(&model.checkpoint, &model.place, model.dtype)?;
    let penalty = settings["talker_repetition_penalty"].as_f64().unwrap_or(1.05) as f32;
    let options = SpeakOptions {
        sampling: SamplingOptions::greedy().repetition_penalty(penalty),
        max_codes: count(settings, "talker_max_new_tokens", 4096),
        end_code: settings["talker_eos_token_id"].as_u64().map(|code| code as u32),
    };
    let stored = stored_frames(case)?;
    let first_codes = case.ints("first_codes")?.into_iter().map(|code| code as u32).collect();
    let mut steps = Steps { stored: first_codes, ..Steps::default() };
    let mut speaking = talker.begin(prompt, positions, &options, &mut steps)?;
    let mut state = predictor.start(&SamplingOptions::greedy());
    let (mut made, mut shown) = (Vec::new(), Vec::new());
    let rows = prompt.trailing.dims()[0];
    while speaking.finish_reason().is_none() {
        let start = talker.frame_starts(&[&mut speaking]).remove(0);
        let mut frame = Frame::along(stored.get(made.len()).map_or_else(Vec::new, |frame| frame[1..].to_vec()));
        let run = FrameRun { state: &mut state, start: &start, probe: Some(&mut frame) };
        let codes = predictor.predict(vec![run])?.remove(0)?;
        shown.push(frame);
        made.push(speaking.take_frame(start, codes));
        let text = match made.len() <= rows {
            true => prompt.trailing.clone().narrow(0, made.len() - 1, 1),
            false => prompt.pad.clone(),
        };
        talker.advance(vec![Advance { speaking: &mut speaking, text: &text, probe: Some(&mut steps) }]).remove(0)?;
    }
    steps.compare(case);
    compare_frames(case, &made, &stored, shown);
    if made.is_empty() {
        return Err(Error::Request("the first code was the end code: no frames".into()));
    }
    Ok(made)
}

/// Reads `codes` as frames `[F, Q]`, ignoring leading axes of length 1.
fn stored_frames(case: &mut Case) -> Result<Vec<Vec<u32>>> {
    let codebooks = case.shape("codes")?.last().copied().unwrap_or(1).max(1);
    Ok(case.ints("codes")?.chunks(codebooks).map(|frame| frame.iter().map(|code| *code as u32).collect()).collect())
}

fn compare_frames(case: &mut Case, made: &[Vec<u32>], stored: &[Vec<u32>], shown: Vec<Frame>) {
    // The stored codes are forced; the codes that were chosen are compared one by one.
    let same = format!("{:?}", made == stored);
    case.compare_text("codes, as they were fed back", &same, "true");
    let chosen: Vec<u32> = shown.iter().flat_map(|frame| frame.chosen.clone()).collect();
    let residual: Vec<u32> = stored.iter().flat_map(|frame| frame[1..].to_vec()).collect();
    case.compare_choices("codes", "residual", 0, &chosen, &residual);
    if !shown.is_empty() {
        let prefills: Vec<Tensor<3>> =
            shown.iter().filter_map(|frame| frame.prefill.clone()).map(Tensor::unsqueeze).collect();
        let logits = shown.into_iter().map(|frame| Tensor::cat(frame.logits, 0).unsqueeze::<3>()).collect();
        case.compare("code_predictor_prefill", Tensor::cat(prefills, 0), STATES);
        case.compare("code_predictor_logits", Tensor::cat(logits, 0), STATES);
    }
}
