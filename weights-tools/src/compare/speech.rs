use burn::tensor::{Tensor, TensorData};
use code2wav::Code2Wav;
use moe_talker::{Advance, SpeakOptions, SpeakProbe, Talker, TalkerContext, TalkerInput, TalkerPrompt, TalkerRun};
use moe_thinker::media_ids;
use mtp::{CodePredictor, FrameRun, PredictorProbe};
use nn::{AnyEngine, Embedding, Engine as _, Probe, on_engine};
use omni_core::{FrameStart, Positions, Result, SamplingOptions};
use qwen3_omni::Component;
use tm_rope::MediaLayout;

use super::difference::{Difference, Pairs};
use super::outputs::Answer;
use super::side::Side;

/// Frames of speech the reference makes of each answer.
const FRAMES: usize = 24;

/// The reference's speech for one answer.
struct Spoken {
    /// `[1, D]` each: what the talker was fed after its prompt.
    steps: Vec<Tensor<2>>,
    /// What the code predictor started from, for each frame.
    starts: Vec<FrameStart>,
    /// `[Q]` codes of each frame.
    frames: Vec<Vec<u32>>,
}

/// The thinker's own table: both talkers read the same rows.
struct Table {
    table: Embedding,
    engine: AnyEngine,
}

impl Table {
    fn load(side: &Side) -> Result<Self> {
        let text = &side.config().thinker.text;
        let weights = side.weights().at("thinker.model.embed_tokens");
        let table = Embedding::load(&weights, [text.vocab_size, text.hidden_size])?;
        Ok(Self { table, engine: AnyEngine::of(&weights) })
    }

    /// `[T]` → `[T, D]`.
    fn rows(&self, ids: &[u32]) -> Tensor<2> {
        on_engine!(self.engine, |e| e.tensor(&e.embed(&self.table, &e.ids(ids)), 0..ids.len()))
    }
}

/// Compares talker, code predictor and vocoder, each fed the reference's own intermediate results.
pub(super) fn compare(sides: &[Side; 2], answers: &[Answer]) -> Result<Vec<Difference>> {
    let answers: Vec<Answer> = answers.iter().map(spoken_answer).collect();
    let table = Table::load(&sides[0])?;
    let reference = Talker::load(&sides[0].weights(), sides[0].config().talker()?, sides[0].config().turns)?;
    let predictor = CodePredictor::load(&sides[0].weights(), sides[0].config().code_predictor()?)?;
    let mut spoken = Vec::new();
    for answer in &answers {
        let laid_out = laid_out(&sides[0], &reference, &table, answer)?;
        let said = speak(&reference, &predictor, laid_out.clone(), None)?;
        // A run that ends before its first frame is repeated with another end code, so that it goes on.
        let said = if said.frames.is_empty() { speak(&reference, &predictor, laid_out, Some(0))? } else { said };
        spoken.push(said);
    }
    let scores = |side: &Side, talker: &Talker| -> Result<Vec<Tensor<2>>> {
        let both = answers.iter().zip(&spoken);
        both.map(|(answer, spoken)| scores(side, talker, (&table, answer), &spoken.steps)).collect()
    };
    let expected = scores(&sides[0], &reference)?;
    drop(reference);
    let talker = Talker::load(&sides[1].weights(), sides[1].config().talker()?, sides[1].config().turns)?;
    let mut talkers = Pairs::scores(Component::Talker.name());
    expected.into_iter().zip(scores(&sides[1], &talker)?).try_for_each(|(a, b)| talkers.add(a, b))?;
    drop(talker);
    let frames = spoken.iter().flat_map(|spoken| &spoken.starts);
    let predictors = residual_codes(sides, predictor, frames)?;
    Ok(vec![talkers.finish()?, predictors, waveforms(sides, &spoken)?])
}

/// The text that is spoken: an untrained model may answer nothing, and then speaks the beginning of its prompt.
fn spoken_answer(answer: &Answer) -> Answer {
    let Answer { prompt, answer } = answer;
    let spoken = if answer.is_empty() { prompt[..prompt.len().min(6)].to_vec() } else { answer.clone() };
    Answer { prompt: prompt.clone(), answer: spoken }
}

fn laid_out(
    side: &Side,
    talker: &Talker,
    table: &Table,
    Answer { prompt, answer }: &Answer,
) -> Result<(TalkerPrompt, (Positions, f32))> {
    // Rows come in the number type of the reference.
    let embed = |ids: &[u32]| side.tensor(&table.rows(ids));
    let speaker = side.config().talker()?.speaker_id.values().next().copied().unwrap_or_default();
    let prompt = talker.prompt(&TalkerContext { prompt, answer, speaker, embed: &embed, tap: None })?;
    let prompt = prompt.expect("the answer is not empty");
    let config = &side.config().thinker;
    let (ids, ids_per_second) = (media_ids(config), config.position_id_per_seconds);
    let layout = MediaLayout { ids, items: Vec::new(), audio_in_video: Vec::new(), ids_per_second };
    let positions = layout.positions(&prompt.ids)?;
    Ok((prompt, positions))
}

/// Records what the talker is fed.
#[derive(Default)]
struct Fed(Vec<Tensor<2>>);

impl SpeakProbe for Fed {
    fn input(&mut self, embeds: &Tensor<2>, _: f32) {
        self.0.push(embeds.clone());
    }
}

/// A greedy run of the reference.
fn speak(
    talker: &Talker,
    predictor: &CodePredictor,
    (prompt, positions): (TalkerPrompt, (Positions, f32)),
    end_code: Option<u32>,
) -> Result<Spoken> {
    let options = SpeakOptions { sampling: SamplingOptions::greedy(), max_codes: FRAMES + 1, end_code };
    let (mut fed, mut frames, mut starts) = (Fed::default(), Vec::new(), Vec::new());
    let mut speaking = talker.begin(&prompt, positions, &options, &mut fed)?;
    let mut state = predictor.start(&SamplingOptions::greedy());
    let rows = prompt.trailing.dims()[0];
    while speaking.finish_reason().is_none() {
        let text = match frames.len() < rows {
            true => prompt.trailing.clone().narrow(0, frames.len(), 1),
            false => prompt.pad.clone(),
        };
        let start = talker.frame_starts(&[&mut speaking]).remove(0);
        let made = predictor.predict(vec![FrameRun::new(&mut state, &start)])?.remove(0)?;
        starts.push(start.clone());
        frames.push(speaking.take_frame(start, made));
        talker.advance(vec![Advance { speaking: &mut speaking, text: &text, probe: Some(&mut fed) }]).remove(0)?;
    }
    Ok(Spoken { steps: fed.0, starts, frames })
}

/// Logits of the first code after every row of the talker's prompt and of the reference's frames `[T, V]`.
fn scores(side: &Side, talker: &Talker, (table, answer): (&Table, &Answer), steps: &[Tensor<2>]) -> Result<Tensor<2>> {
    let (prompt, (positions, delta)) = laid_out(side, talker, table, answer)?;
    let fed = prompt.embeds.dims()[0];
    let mut rows = vec![prompt.embeds];
    rows.extend(steps.iter().map(|row| side.tensor(row)));
    let later = (0..steps.len()).map(|step| (fed + step) as f32 + delta);
    let axes = [0, 1, 2].map(|axis| positions.axis(axis).iter().copied().chain(later.clone()).collect());
    let input = TalkerInput { embeds: Tensor::cat(rows, 0), positions: Positions::new(1, axes) };
    Ok(talker.states(TalkerRun::new(&mut talker.start(), &input))?.logits)
}

/// Records the logits of each residual code of a frame.
#[derive(Default)]
struct Scores {
    logits: Vec<Tensor<2>>,
    /// Nothing is kept of the layers.
    layers: (),
}

impl PredictorProbe for Scores {
    fn logits(&mut self, logits: &Tensor<2>) {
        self.logits.push(logits.clone());
    }

    fn layers(&mut self) -> &mut dyn Probe {
        &mut self.layers
    }
}

/// Logits of each frame's residual codes, as long as the codes before them are the same.
fn residual_codes<'a>(
    sides: &[Side; 2],
    reference: CodePredictor,
    starts: impl Iterator<Item = &'a FrameStart>,
) -> Result<Difference> {
    let other = CodePredictor::load(&sides[1].weights(), sides[1].config().code_predictor()?)?;
    let frame = |side: &Side, predictor: &CodePredictor, start: &FrameStart| -> Result<(Vec<Tensor<2>>, Vec<u32>)> {
        let start = FrameStart { hidden: side.tensor(&start.hidden), first: side.tensor(&start.first) };
        let mut scores = Scores::default();
        let mut state = predictor.start(&SamplingOptions::greedy());
        let run = FrameRun { state: &mut state, start: &start, probe: Some(&mut scores) };
        let made = predictor.predict(vec![run])?.remove(0)?;
        Ok((scores.logits, made.residual))
    };
    let mut pairs = Pairs::scores(Component::CodePredictor.name());
    for start in starts {
        let (expected, codes) = frame(&sides[0], &reference, start)?;
        let (found, others) = frame(&sides[1], &other, start)?;
        let same = codes.iter().zip(&others).take_while(|(a, b)| a == b).count();
        expected.into_iter().zip(found).take(same + 1).try_for_each(|(a, b)| pairs.add(a, b))?;
    }
    pairs.finish()
}

fn waveforms(sides: &[Side; 2], spoken: &[Spoken]) -> Result<Difference> {
    let frames: Vec<Vec<u32>> = spoken.iter().flat_map(|spoken| spoken.frames.clone()).collect();
    let frames = if frames.is_empty() { counted(&sides[0])? } else { frames };
    let sound = |side: &Side| -> Result<Tensor<1>> {
        let samples = Code2Wav::load(&side.weights(), side.config().code2wav()?)?.decode(&frames)?;
        let count = samples.len();
        Ok(Tensor::from_data(TensorData::new(samples, [count]), side.place.device()))
    };
    let mut pairs = Pairs::new(Component::Code2Wav.name(), "samples");
    pairs.add(sound(&sides[0])?, sound(&sides[1])?)?;
    pairs.finish()
}

/// Arbitrary frames, for a talker that ends before its first one.
fn counted(side: &Side) -> Result<Vec<Vec<u32>>> {
    let config = side.config().code2wav()?;
    let (books, size) = (config.num_quantizers, config.codebook_size);
    let frame = |frame: usize| (0..books).map(|book| ((frame * books + book) * 31 % size) as u32).collect();
    Ok((0..FRAMES).map(frame).collect())
}
