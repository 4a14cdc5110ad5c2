use burn::tensor::{Int, Tensor, TensorData};
use checkpoint::Component;
use code2wav::Code2Wav;
use moe_talker::{Conversation, SpeakOptions, SpeakProbe, Talker, TalkerPrompt};
use moe_thinker::media_ids;
use mtp::{CodePredictor, PredictorProbe};
use nn::{Embedding, Probe};
use omni_core::{CodeFrames, CodePredictor as _, Positions, Result, SamplingOptions, Stage, TalkerInput};
use tm_rope::MediaLayout;

use super::Side;
use super::difference::{Difference, Pairs, host};
use super::outputs::Answer;

/// Frames the reference speaks of each answer.
const FRAMES: usize = 24;

/// What the reference does of one answer.
struct Spoken {
    /// `[1, F, D]`: what the talker was fed after its prompt.
    steps: Vec<Tensor<3>>,
    /// `[1, 2, D]`: what the code predictor started from, for each frame.
    starts: Vec<Tensor<3>>,
    /// `[1, Q]` codes of each frame.
    frames: Vec<Tensor<2, Int>>,
}

/// Talker, code predictor and vocoder, each fed what the reference's own parts made.
pub(super) fn compare(sides: &[Side; 2], answers: &[Answer]) -> Result<Vec<Difference>> {
    let answers: Vec<Answer> = answers.iter().map(spoken_answer).collect();
    // The thinker's own table: both talkers read the same rows.
    let text = &sides[0].config().thinker.text;
    let table = sides[0].weights().at("thinker.model.embed_tokens");
    let table = Embedding::load(&table, [text.vocab_size, text.hidden_size])?;
    let reference = Talker::load(&sides[0].weights(), sides[0].config())?;
    let predictor = CodePredictor::load(&sides[0].weights(), sides[0].config())?;
    let mut spoken = Vec::new();
    for answer in &answers {
        let laid_out = laid_out(&sides[0], &reference, &table, answer)?;
        let said = speak(&reference, &predictor, laid_out.clone(), None)?;
        // One that ends before its first frame is made to go on: another code ends it.
        let said = if said.frames.is_empty() { speak(&reference, &predictor, laid_out, Some(0))? } else { said };
        spoken.push(said);
    }
    let scores = |side: &Side, talker: &Talker| -> Result<Vec<Tensor<3>>> {
        let both = answers.iter().zip(&spoken);
        both.map(|(answer, spoken)| scores(side, talker, (&table, answer), &spoken.steps)).collect()
    };
    let expected = scores(&sides[0], &reference)?;
    drop(reference);
    let talker = Talker::load(&sides[1].weights(), sides[1].config())?;
    let mut talkers = Pairs::scores(Component::Talker.name());
    expected.into_iter().zip(scores(&sides[1], &talker)?).try_for_each(|(a, b)| talkers.add(a, b))?;
    drop(talker);
    let frames = spoken.iter().flat_map(|spoken| &spoken.starts);
    let predictors = residual_codes(sides, predictor, frames)?;
    Ok(vec![talkers.finish()?, predictors, waveforms(sides, &spoken)?])
}

/// A model without training may have nothing to say; then it says the beginning of its prompt.
fn spoken_answer(answer: &Answer) -> Answer {
    let Answer { prompt, answer } = answer;
    let spoken = if answer.is_empty() { prompt[..prompt.len().min(6)].to_vec() } else { answer.clone() };
    Answer { prompt: prompt.clone(), answer: spoken }
}

fn laid_out(
    side: &Side,
    talker: &Talker,
    table: &Embedding,
    Answer { prompt, answer }: &Answer,
) -> Result<(TalkerPrompt, (Positions, f32))> {
    // Rows come in the number type of the reference.
    let embed = |ids| side.tensor(&table.forward(ids));
    let speaker = side.config().talker()?.speaker_id.values().next().copied().unwrap_or_default();
    let prompt = talker.prompt(&Conversation { prompt, answer, speaker, embed: &embed, tap: None })?;
    let prompt = prompt.expect("the answer is not empty");
    let config = &side.config().thinker;
    let (ids, ids_per_second) = (media_ids(config), config.position_id_per_seconds);
    let layout = MediaLayout { ids, items: Vec::new(), audio_in_video: false, ids_per_second };
    let positions = layout.positions(&prompt.ids)?;
    Ok((prompt, positions))
}

/// Keeps what the talker is fed.
#[derive(Default)]
struct Fed(Vec<Tensor<3>>);

impl SpeakProbe for Fed {
    fn input(&mut self, embeds: &Tensor<3>, _: f32) {
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
    let predictor = Starts::new(predictor);
    let (sampling, residual_sampling) = (SamplingOptions::greedy(), SamplingOptions::greedy());
    let options = SpeakOptions { sampling, residual_sampling, max_codes: FRAMES + 1, end_code };
    let (mut fed, mut frames) = (Fed::default(), Vec::new());
    let mut speaking = talker.begin(&prompt, positions, &predictor, &options, &mut fed)?;
    let rows = prompt.trailing.dims()[1];
    loop {
        let text = match frames.len() < rows {
            true => prompt.trailing.clone().narrow(1, frames.len(), 1),
            false => prompt.pad.clone(),
        };
        match talker.frame(&mut speaking, &predictor, text, &mut fed)? {
            Some(codes) => frames.push(codes),
            None => break,
        }
    }
    Ok(Spoken { steps: fed.0, starts: predictor.taken(), frames })
}

/// Scores of the first code after every row of the talker's prompt and of the reference's frames `[1, T, V]`.
fn scores(
    side: &Side,
    talker: &Talker,
    (table, answer): (&Embedding, &Answer),
    steps: &[Tensor<3>],
) -> Result<Tensor<3>> {
    let (prompt, (positions, delta)) = laid_out(side, talker, table, answer)?;
    let fed = prompt.embeds.dims()[1];
    let mut rows = vec![prompt.embeds];
    rows.extend(steps.iter().map(|row| side.tensor(row)));
    let later = (0..steps.len()).map(|step| (fed + step) as f32 + delta);
    let axes = [0, 1, 2].map(|axis| positions.axis(axis).iter().copied().chain(later.clone()).collect());
    let input = TalkerInput { embeds: Tensor::cat(rows, 1), positions: Positions::new(1, axes) };
    let hidden = talker.hidden(&mut talker.start(), input, &mut ())?;
    Ok(talker.logits(hidden))
}

/// A code predictor that keeps what each frame starts from.
struct Starts<'a> {
    inner: &'a CodePredictor,
    taken: std::sync::Mutex<Vec<Tensor<3>>>,
}

impl<'a> Starts<'a> {
    fn new(inner: &'a CodePredictor) -> Self {
        Self { inner, taken: std::sync::Mutex::default() }
    }

    fn taken(self) -> Vec<Tensor<3>> {
        self.taken.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl omni_core::CodePredictor for Starts<'_> {
    type State = mtp::PredictorState;

    fn start(&self, sampling: &SamplingOptions) -> Self::State {
        self.inner.start(sampling)
    }

    fn predict(&self, state: &mut Self::State, hidden: Tensor<3>, first: Tensor<3>) -> omni_core::FrameCodes {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        taken.push(Tensor::cat(vec![hidden.clone(), first.clone()], 1));
        self.inner.predict(state, hidden, first)
    }
}

/// Scores of each residual code of a frame.
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

/// Scores of each frame's residual codes, as long as the codes before them are the same.
fn residual_codes<'a>(
    sides: &[Side; 2],
    reference: CodePredictor,
    starts: impl Iterator<Item = &'a Tensor<3>>,
) -> Result<Difference> {
    let other = CodePredictor::load(&sides[1].weights(), sides[1].config())?;
    let frame = |side: &Side, predictor: &CodePredictor, start: &Tensor<3>| -> Result<(Vec<Tensor<2>>, Vec<f32>)> {
        let [hidden, first] = [0, 1].map(|row| side.tensor(&start.clone().narrow(1, row, 1)));
        let mut scores = Scores::default();
        let mut state = predictor.start(&SamplingOptions::greedy());
        let made = predictor.predict_with(&mut state, hidden, first, &mut scores);
        Ok((scores.logits, host(made.residual.float())?))
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
    let codes: Vec<Tensor<2, Int>> = spoken.iter().flat_map(|spoken| spoken.frames.clone()).collect();
    let codes = if codes.is_empty() { counted(&sides[0])? } else { Tensor::cat(codes, 0) };
    let codes = codes.swap_dims(0, 1).unsqueeze::<3>(); // [1, Q, F]
    let sound = |side: &Side| -> Result<Tensor<2>> {
        let vocoder = Code2Wav::load(&side.weights(), side.config())?;
        Ok(vocoder.step(&mut vocoder.start(), CodeFrames { codes: codes.clone() })?.samples)
    };
    let mut pairs = Pairs::new(Component::Code2Wav.name(), "samples");
    pairs.add(sound(&sides[0])?, sound(&sides[1])?)?;
    pairs.finish()
}

/// Frames `[F, Q]` for a talker that ends before its first one.
fn counted(side: &Side) -> Result<Tensor<2, Int>> {
    let config = side.config().code2wav()?;
    let (books, size) = (config.num_quantizers, config.codebook_size);
    let codes = (0..FRAMES * books).map(|index| (index * 31 % size) as i64).collect::<Vec<_>>();
    Ok(Tensor::from_data(TensorData::new(codes, [FRAMES, books]), &side.device))
}
