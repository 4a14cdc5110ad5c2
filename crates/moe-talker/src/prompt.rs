use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use omni_core::{Error, Positions, Result};

use crate::{Talker, TalkerInput};

/// The thinker's prompt and answer, as the talker needs them.
pub struct TalkerContext<'a> {
    /// Ids of the whole prompt, placeholders expanded, up to the opening of the answer.
    pub prompt: &'a [u32],
    /// Ids of the answer that are to be spoken, as far as they are generated, without the end token; at least one.
    pub answer: &'a [u32],
    /// Codec id of the voice.
    pub speaker: u32,
    /// The thinker's embedding table. `[T]` → `[T, thinker D]`.
    pub embed: &'a dyn Fn(&[u32]) -> Tensor<2>,
    /// `[M, thinker D]`: states of the accepted layer at the prompt's [`Talker::media_places`]; `None` if it has none.
    pub tap: Option<Tensor<2>>,
}

impl std::fmt::Debug for TalkerContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TalkerContext").finish_non_exhaustive()
    }
}

/// Everything a run of the talker starts from.
#[derive(Debug, Clone)]
pub struct TalkerPrompt {
    /// `[T, D]`: user part, then nine opening positions.
    pub embeds: Tensor<2>,
    /// `T` ids that only decide positions: the user part's own, then nine times the text pad.
    pub ids: Vec<u32>,
    /// Indices of the user part's tokens in the prompt.
    pub user: Vec<usize>,
    /// `[n, D]`: rows of text still to come, one per frame; the last closes the text.
    pub trailing: Tensor<2>,
    /// `[1, D]`: the row that closes the text.
    pub eos: Tensor<2>,
    /// `[1, D]`: the row that stands in when the text has run out.
    pub pad: Tensor<2>,
}

impl TalkerPrompt {
    /// A range of rows, with their positions out of those of the prompt.
    ///
    /// # Shapes
    /// `[range, D]`.
    ///
    /// # Panics
    /// If the range is empty, or goes beyond the prompt.
    pub fn input(&self, range: Range<usize>, positions: &Positions) -> TalkerInput {
        let embeds = self.embeds.clone().narrow(0, range.start, range.len());
        TalkerInput { embeds, positions: positions.slice(range) }
    }
}

/// Opening positions: three of the assistant's header, five controls, one of text.
const OPENING: usize = 9;
/// `<|im_start|>`, `assistant`, newline.
const HEADER: usize = 3;

impl Talker {
    /// Indices of a prompt's rows of media, in order.
    pub fn media_places(&self, prompt: &[u32]) -> Vec<usize> {
        (0..prompt.len()).filter(|at| self.turns.placeholders.contains(&prompt[*at])).collect()
    }

    /// The row of one more token of text, for a talker that speaks while the text is being written.
    ///
    /// # Shapes
    /// `embeds` `[1, thinker D]` is its row of the thinker's embedding table → `[1, D]`.
    pub fn text_row(&self, embeds: &Tensor<2>) -> Tensor<2> {
        self.text_rows(embeds)
    }

    /// Lays out the talker's prompt: every user turn, then text side plus codec side of the answer's opening.
    ///
    /// `None` if the answer has no text: there is nothing to say.
    ///
    /// # Errors
    /// [`Error::Request`] if the prompt does not end in an assistant turn's opening, or has media rows and no tap, or if
    /// the speaker has no row in the codec embedding.
    pub fn prompt(&self, context: &TalkerContext) -> Result<Option<TalkerPrompt>> {
        let (user, assistant) = self.split(context.prompt)?;
        let text: Vec<u32> = assistant.iter().chain(context.answer).copied().collect();
        if text.len() <= HEADER {
            return Ok(None);
        }
        let rows = |ids: &[u32]| self.text_rows(&(context.embed)(ids));
        let turns = self.turns;
        let controls = rows(&[turns.tts_pad, turns.tts_bos, turns.tts_eos]); // [3, D]
        let [pad, bos, eos] = [0, 1, 2].map(|i| controls.clone().narrow(0, i, 1));
        let text = rows(&text);
        let embeds = self.opening(&text, [pad.clone(), bos], context.speaker)?;
        let embeds = match user.is_empty() {
            true => embeds,
            false => Tensor::cat(vec![self.user_rows(context, &user)?, embeds], 0),
        };
        let later = text.dims()[0] - HEADER - 1;
        let trailing = match later {
            0 => eos.clone(),
            _ => Tensor::cat(vec![text.narrow(0, HEADER + 1, later), eos.clone()], 0),
        };
        let ids = [user.iter().map(|at| context.prompt[*at]).collect(), vec![turns.tts_pad; OPENING]].concat();
        Ok(Some(TalkerPrompt { embeds, ids, user, trailing, eos, pad }))
    }

    /// Rows of the user turns: text by its embeddings, media by the thinker's states. → `[T, D]`.
    fn user_rows(&self, context: &TalkerContext, user: &[usize]) -> Result<Tensor<2>> {
        let ids: Vec<u32> = user.iter().map(|at| context.prompt[*at]).collect();
        let text = self.text_rows(&(context.embed)(&ids));
        let media: Vec<usize> = (0..ids.len()).filter(|row| self.turns.placeholders.contains(&ids[*row])).collect();
        if media.is_empty() {
            return Ok(text);
        }
        let missing = || Error::Request("the prompt has media rows, but the thinker's states were not kept".into());
        let tap = context.tap.clone().ok_or_else(missing)?;
        let indices = |values: Vec<i64>| {
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &tap.device())
        };
        // Other turns may have media as well: the user's rows are those whose indices belong to the user part.
        let places = self.media_places(context.prompt);
        if places.len() != tap.dims()[0] {
            let (places, rows) = (places.len(), tap.dims()[0]);
            return Err(Error::Request(format!("the prompt has {places} media rows, but {rows} states were kept")));
        }
        let rank = |row: usize| places.binary_search(&user[row]).expect("a media row of the user") as i64;
        let states = tap.clone().select(0, indices(media.iter().map(|row| rank(*row)).collect()));
        let mut order: Vec<i64> = (0..ids.len() as i64).collect();
        for (index, row) in media.iter().enumerate() {
            order[*row] = (ids.len() + index) as i64;
        }
        let both = Tensor::cat(vec![text, self.media_rows(&states)], 0);
        Ok(both.select(0, indices(order)))
    }

    /// The nine opening positions, text side plus codec side.
    fn opening(&self, text: &Tensor<2>, [pad, bos]: [Tensor<2>; 2], speaker: u32) -> Result<Tensor<2>> {
        let header = text.clone().narrow(0, 0, HEADER);
        let first = text.clone().narrow(0, HEADER, 1);
        let text_side = Tensor::cat(vec![pad.repeat_dim(0, 4), bos, first], 0); // [6, D]
        let [a, b, c] = self.controls.think;
        let codec_side = self.codec_rows(&[a, b, c, speaker, self.controls.pad, self.controls.bos])?;
        Ok(Tensor::cat(vec![header, text_side + codec_side], 0)) // [9, D]
    }

    /// Where the user turns are, and the ids from the last assistant opening on.
    fn split(&self, prompt: &[u32]) -> Result<(Vec<usize>, Vec<u32>)> {
        let starts: Vec<usize> = (0..prompt.len()).filter(|i| prompt[*i] == self.turns.im_start).collect();
        let ends = starts.iter().skip(1).copied().chain([prompt.len()]);
        let (mut user, mut last) = (Vec::new(), None);
        for (start, end) in starts.iter().zip(ends) {
            let turn = &prompt[*start..end];
            match turn.get(1) {
                Some(role) if *role == self.turns.user => user.extend(*start..end),
                Some(role) if *role == self.turns.assistant => last = Some(*start),
                _ => {}
            }
        }
        let opening = last.map(|start| &prompt[start..]).filter(|turn| turn.len() >= HEADER);
        let opening = opening.ok_or_else(|| Error::Request("the prompt does not open an assistant turn".into()))?;
        Ok((user, opening.to_vec()))
    }
}
