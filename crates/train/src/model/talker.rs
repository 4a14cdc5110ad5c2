use burn::module::{Module, Param};
use burn::tensor::{DType, Device, IndexingUpdateOp, Tensor};
use checkpoint::{Checkpoint, Weights, param_id};
use moe_talker::{Talker, TalkerConfig, TalkerContext, TalkerInput, TalkerPrompt, TalkerRun, Turns};
use mtp::{CodePredictor, CodePredictorConfig, GivenFrames};
use omni_core::{Dtype, Place, Positions};
use tm_rope::MediaLayout;

use crate::loss::{RouterTap, indices, load_balance, log_probs};
use crate::{Error, Result};

/// The talker with its code predictor, under their names on disk.
#[derive(Module, Debug)]
pub struct TalkerModel {
    talker: Talker,
    code_predictor: CodePredictor,
    /// The row of a new speaker `[D]`, which replaces that of the table.
    speaker: Option<Param<Tensor<1>>>,
}

/// A conversation that ends in an answer and its speech.
pub struct SpokenAnswer<'a> {
    /// Token ids of the prompt, placeholders expanded, up to the opening of the answer.
    pub prompt: &'a [u32],
    /// Token ids of the answer without its end token.
    pub answer: &'a [u32],
    /// Media of the prompt.
    pub layout: MediaLayout,
    /// `[M, thinker D]`: the thinker's states at the prompt's media rows; `None` without media.
    pub tap: Option<Tensor<2>>,
    /// Rows of the thinker's embedding table: `[T]` → `[T, thinker D]`.
    pub embed: &'a dyn Fn(&[u32]) -> Tensor<2>,
    /// Codec id of the voice.
    pub speaker: u32,
    /// `[F, Q]`: the codes of the speech.
    pub codes: &'a [Vec<u32>],
    /// Whether the speech ends behind its last frame; one that was stopped there has no end code to learn.
    pub ends: bool,
}

impl SpokenAnswer<'_> {
    /// Rows that carry loss: one for each frame, and one for the end.
    fn rows(&self) -> usize {
        self.codes.len() + usize::from(self.ends)
    }
}

impl std::fmt::Debug for SpokenAnswer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpokenAnswer").finish_non_exhaustive()
    }
}

/// What the losses need of one pass over a batch of spoken answers.
#[derive(Debug, Clone)]
pub struct TalkerForward {
    /// `[T, D]` of each answer: what the talker read.
    pub embeds: Vec<Tensor<2>>,
    /// Positions of these rows.
    pub positions: Vec<Positions>,
    /// `[rows, V]`: logits of the first code of each frame, and of the end code behind the last; one answer after another.
    pub logits: Tensor<2>,
    /// `[rows]`.
    pub labels: Vec<u32>,
    /// Number of such rows of each answer: its frames, and one if it ends.
    pub rows: Vec<usize>,
    /// Frames of each answer.
    pub frames: Vec<usize>,
    /// `[frames, V]` of each residual codebook.
    pub residual_logits: Vec<Tensor<2>>,
    /// `[frames]` of each residual codebook.
    pub residual_labels: Vec<Vec<u32>>,
    /// The balancing loss of the talker's routers; `None` without experts.
    pub balance: Option<Tensor<1>>,
}

/// One answer, laid out for teacher forcing.
struct Laid {
    input: TalkerInput,
    /// Rows before the one that predicts the first frame.
    before: usize,
}

impl TalkerModel {
    /// Loads the talker and its code predictor on a device, to compute in `dtype`; an autodiff device makes them trainable.
    ///
    /// # Errors
    /// The errors of the config's sections and of [`Checkpoint::check`].
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device, dtype: Dtype) -> Result<Self> {
        let talker: TalkerConfig = checkpoint.config().section()?;
        let predictor: CodePredictorConfig = checkpoint.config().section()?;
        let turns = checkpoint.config().section()?;
        let load = |weights: &Weights| {
            Ok(Self {
                talker: Talker::load(weights, &talker, turns)?,
                code_predictor: CodePredictor::load(weights, &predictor)?,
                speaker: None,
            })
        };
        let in_scope = |name: &str| name.starts_with("talker.");
        Ok(checkpoint.load(&Place::Device(device.clone()), dtype, in_scope, load)?)
    }

    /// Makes the row of speaker `id` a parameter of its own, which starts at the mean of the table's rows `like`. Returns its name,
    /// `talker.model.codec_embedding.weight[id]`.
    ///
    /// # Errors
    /// [`Error::Batch`] for no rows to start from or a row beyond the table.
    pub fn with_speaker(mut self, id: u32, like: &[u32]) -> Result<(Self, String)> {
        let rows = self.talker.codec_rows(like)?;
        self.talker.codec_rows(&[id])?;
        let name = format!("talker.model.codec_embedding.weight[{id}]");
        let row = rows.mean_dim(0).flatten::<1>(0, 1).detach().require_grad();
        self.speaker = Some(Param::initialized(param_id(&name), row));
        Ok((self, name))
    }

    /// Runs whole answers with their codes given (teacher forcing), each at its own length.
    ///
    /// # Errors
    /// [`Error::Batch`] for an answer without text or frames, and the errors of talker and code predictor.
    pub fn forward(&self, answers: &[SpokenAnswer]) -> Result<TalkerForward> {
        let laid = answers.iter().map(|answer| self.lay_out(answer)).collect::<Result<Vec<_>>>()?;
        let mut states: Vec<_> = laid.iter().map(|_| self.talker.start_once()).collect();
        let mut routers: Vec<RouterTap> = laid.iter().map(|_| RouterTap::default()).collect();
        let runs = states.iter_mut().zip(&laid).zip(&mut routers);
        let runs = runs.map(|((state, laid), probe)| TalkerRun { state, input: &laid.input, probe: Some(probe) });
        let hidden = self.talker.hidden_states(runs.collect())?; // [N, D]
        let (mut predicting, mut starting, mut labels, mut offset) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (answer, laid) in answers.iter().zip(&laid) {
            let (first, frames) = (offset + laid.before, answer.codes.len());
            predicting.extend(first..first + answer.rows());
            starting.extend(first..first + frames);
            let end = answer.ends.then(|| self.talker.end_code());
            labels.extend(answer.codes.iter().map(|codes| codes[0]).chain(end));
            offset += laid.input.positions.tokens();
        }
        let select = |places: Vec<usize>| hidden.clone().select(0, indices(places, &hidden.device()));
        let (residual_logits, residual_labels) = self.residual(answers, select(starting))?;
        let (embeds, positions) = laid.into_iter().map(|laid| (laid.input.embeds, laid.input.positions)).unzip();
        Ok(TalkerForward {
            embeds,
            positions,
            logits: self.talker.logits(&select(predicting)),
            labels,
            rows: answers.iter().map(SpokenAnswer::rows).collect(),
            frames: answers.iter().map(|answer| answer.codes.len()).collect(),
            residual_logits,
            residual_labels,
            balance: load_balance(&routers),
        })
    }

    /// The residual codebooks' logits and labels over all frames, from the states `[frames, D]` that their first codes were chosen from.
    fn residual(&self, answers: &[SpokenAnswer], hidden: Tensor<2>) -> Result<(Vec<Tensor<2>>, Vec<Vec<u32>>)> {
        let frames = || answers.iter().flat_map(|answer| answer.codes);
        let first: Vec<u32> = frames().map(|codes| codes[0]).collect();
        let residual: Vec<Vec<u32>> = frames().map(|codes| codes[1..].to_vec()).collect();
        let given = GivenFrames { hidden, first: self.talker.codec_rows(&first)?, residual: &residual };
        let logits = self.code_predictor.teacher_forced(&given)?;
        let labels = (0..logits.len()).map(|book| residual.iter().map(|codes| codes[book]).collect()).collect();
        Ok((logits, labels))
    }

    /// User part, opening and frames of an answer (the training specification's section 8).
    fn lay_out(&self, answer: &SpokenAnswer) -> Result<Laid> {
        if answer.codes.is_empty() {
            return Err(Error::Batch("a spoken answer without codec frames".into()));
        }
        let context = TalkerContext {
            prompt: answer.prompt,
            answer: answer.answer,
            speaker: answer.speaker,
            embed: answer.embed,
            tap: answer.tap.clone(),
        };
        let prompt = self.talker.prompt(&context)?;
        let prompt = prompt.ok_or_else(|| Error::Batch("a spoken answer without text".into()))?;
        let opening = self.voiced(&prompt, answer.speaker)?;
        let embeds = Tensor::cat(vec![opening.cast(DType::F32), self.frames(&prompt, answer.codes)?], 0);
        let positions = self.positions(answer, &prompt)?;
        Ok(Laid { input: TalkerInput { embeds, positions }, before: prompt.ids.len() - 1 })
    }

    /// The prompt's rows, with the trained row in place of the speaker's row of the table.
    fn voiced(&self, prompt: &TalkerPrompt, speaker: u32) -> Result<Tensor<2>> {
        let Some(row) = &self.speaker else { return Ok(prompt.embeds.clone()) };
        let change = row.val().unsqueeze::<2>() - self.talker.codec_rows(&[speaker])?.detach();
        let place = prompt.user.len() + SPEAKER_ROW;
        let place = indices([place], &change.device());
        let change = change.cast(prompt.embeds.dtype());
        Ok(prompt.embeds.clone().select_assign(0, place, change, IndexingUpdateOp::Add))
    }

    /// Input rows of the frames: the embeddings of all their codes and a row of text, `[F, D]`, added up in f32.
    fn frames(&self, prompt: &TalkerPrompt, codes: &[Vec<u32>]) -> Result<Tensor<2>> {
        let first: Vec<u32> = codes.iter().map(|codes| codes[0]).collect();
        let residual: Vec<Vec<u32>> = codes.iter().map(|codes| codes[1..].to_vec()).collect();
        let (frames, written) = (codes.len(), prompt.trailing.dims()[0]);
        let text = match frames.checked_sub(written) {
            None | Some(0) => prompt.trailing.clone().narrow(0, 0, frames),
            Some(silent) => Tensor::cat(vec![prompt.trailing.clone(), prompt.pad.clone().repeat_dim(0, silent)], 0),
        };
        let first = self.talker.codec_rows(&first)?.cast(DType::F32);
        Ok(first + self.code_predictor.embed_frames(&residual)?.cast(DType::F32) + text.cast(DType::F32))
    }

    /// Positions of the prompt, then one more for each frame.
    fn positions(&self, answer: &SpokenAnswer, prompt: &TalkerPrompt) -> Result<Positions> {
        let (positions, delta) = answer.layout.plain_positions(&prompt.ids)?;
        let rows = prompt.ids.len();
        let later = (0..answer.codes.len()).map(|frame| (rows + frame) as f32 + delta);
        let later: Vec<f32> = later.collect();
        Ok(Positions::new(1, [0, 1, 2].map(|axis| [positions.axis(axis), &later].concat())))
    }
}

/// The id that ends a turn.
pub(crate) fn end_of_turn(checkpoint: &Checkpoint) -> Result<u32> {
    let id = checkpoint.config().get("im_end_token_id").and_then(|id| id.as_u64());
    id.map(|id| id as u32).ok_or_else(|| omni_core::Error::config("`im_end_token_id` is missing").into())
}

/// Splits a conversation that ends in an answer into the prompt, up to the answer's opening, and the answer without its end token.
///
/// # Errors
/// [`Error::Batch`] if no assistant turn is opened and ended.
pub fn split_answer<'a>(ids: &'a [u32], turns: &Turns, end: u32) -> Result<(&'a [u32], &'a [u32])> {
    let refuse = |reason: &str| Error::Batch(format!("a conversation {reason}"));
    let opens = |at: &usize| ids[*at] == turns.im_start && ids.get(at + 1) == Some(&turns.assistant);
    let opening = (0..ids.len()).rfind(opens).ok_or_else(|| refuse("without an assistant turn"))?;
    let (prompt, rest) = ids.split_at((opening + HEADER).min(ids.len()));
    let written = rest.iter().position(|id| *id == end).ok_or_else(|| refuse("whose answer does not end"))?;
    Ok((prompt, &rest[..written]))
}

/// `<|im_start|>`, `assistant` and a newline.
const HEADER: usize = 3;

/// The row of the opening that carries the speaker, counted from the end of the user part: three of the header, three controls.
const SPEAKER_ROW: usize = 6;

impl TalkerForward {
    /// Mean cross-entropy of first codes and end codes.
    ///
    /// # Errors
    /// The errors of [`log_probs`].
    pub fn first_codes(&self) -> Result<Tensor<1>> {
        Ok(log_probs(self.logits.clone(), &self.labels)?.mean().neg())
    }

    /// Mean cross-entropy of each residual codebook.
    ///
    /// # Errors
    /// The errors of [`log_probs`].
    pub fn residual_codes(&self) -> Result<Vec<Tensor<1>>> {
        let books = self.residual_logits.iter().zip(&self.residual_labels);
        books.map(|(logits, labels)| Ok(log_probs(logits.clone(), labels)?.mean().neg())).collect()
    }

    /// Log-probability of each answer's first codes and end code, and of its residual codes, summed over its rows: `[answers]` each.
    ///
    /// # Errors
    /// The errors of [`log_probs`].
    pub fn log_probs(&self) -> Result<[Tensor<1>; 2]> {
        let books = self.residual_logits.iter().zip(&self.residual_labels);
        let residual = books.map(|(logits, labels)| log_probs(logits.clone(), labels)).collect::<Result<Vec<_>>>()?;
        let residual = residual.into_iter().reduce(|sum, book| sum + book);
        let residual = residual.ok_or_else(|| Error::Batch("a code predictor without codebooks".into()))?; // [frames]
        Ok([sums(&log_probs(self.logits.clone(), &self.labels)?, &self.rows), sums(&residual, &self.frames)])
    }
}

/// Sums of consecutive stretches: `[N]` → `[stretches]`.
fn sums(values: &Tensor<1>, lengths: &[usize]) -> Tensor<1> {
    let mut start = 0;
    let each = lengths.iter().map(|length| {
        start += length;
        values.clone().narrow(0, start - length, *length).sum()
    });
    Tensor::cat(each.collect(), 0)
}
