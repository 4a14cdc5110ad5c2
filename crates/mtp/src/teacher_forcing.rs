use burn::tensor::Tensor;
use nn::{DecoderRun, Engine, on_engine};
use omni_core::{Error, Positions, Result};

use crate::CodePredictor;
use crate::model::with_rows;

/// Frames whose residual codes are given.
#[derive(Debug, Clone)]
pub struct GivenFrames<'a> {
    /// `[F, D]`: the talker's state that each frame's first code was chosen from.
    pub hidden: Tensor<2>,
    /// `[F, D]`: embedding of each first code.
    pub first: Tensor<2>,
    /// `[F, Q - 1]`: residual codes of each frame.
    pub residual: &'a [Vec<u32>],
}

impl CodePredictor {
    /// Sums the embeddings of the residual codes of several frames, in f32: part of the talker's next input.
    ///
    /// # Shapes
    /// `[F, Q - 1]` → `[F, D]`.
    ///
    /// # Errors
    /// [`Error::Request`] for no frames, another number of codes, or a code outside its table.
    pub fn embed_frames(&self, residual: &[Vec<u32>]) -> Result<Tensor<2>> {
        self.check_frames(residual)?;
        Ok(on_engine!(self.engine, |e| {
            let sum = self.rows_of(e, residual).fold(None, |sum, rows| Some(with_rows(e, sum, &rows)));
            e.tensor(&sum.expect("there is at least one residual codebook"), 0..residual.len())
        }))
    }

    /// Predicts all residual codes of frames at once, each from the given codes before it (teacher forcing). Returns their logits,
    /// `[F, V]` for each residual codebook.
    ///
    /// # Errors
    /// The errors of [`CodePredictor::embed_frames`], and [`Error::Request`] for rows of another number or width.
    pub fn teacher_forced(&self, frames: &GivenFrames) -> Result<Vec<Tensor<2>>> {
        let GivenFrames { hidden, first, residual } = frames;
        let (count, books) = (residual.len(), self.codebooks());
        let expected = [count, self.width()];
        if hidden.dims() != expected || first.dims() != expected {
            let (hidden, first) = (hidden.dims(), first.dims());
            return Err(Error::Request(format!(
                "frames start from {hidden:?} and {first:?}, expected {expected:?} each"
            )));
        }
        self.check_frames(residual)?;
        let rows: Vec<Tensor<2>> =
            on_engine!(self.engine, |e| self.rows_of(e, residual).map(|rows| e.tensor(&rows, 0..count)).collect());
        // The last codebook's code has no successor to predict.
        let inputs = [hidden.clone(), first.clone()].into_iter().chain(rows).take(books);
        let x = Tensor::stack::<3>(inputs.collect(), 1).reshape([count * books, self.width()]); // [F * Q, D]
        Ok(on_engine!(self.engine, |e| self.all_logits(e, &x, count)))
    }

    /// `[F * Q, D]` → `[F, V]` for each residual codebook.
    fn all_logits<E: Engine>(&self, e: &E, x: &Tensor<2>, frames: usize) -> Vec<Tensor<2>> {
        let books = self.codebooks();
        let positions = Positions::sequence(0.0, books);
        let mut states: Vec<_> = (0..frames).map(|_| self.model.start_once()).collect();
        let mut runs: Vec<_> = states.iter_mut().map(|state| DecoderRun::new(state, &positions)).collect();
        let hidden = self.model.forward(e, e.rows(&[x]), &mut runs);
        let head = |(index, head)| {
            let rows: Vec<usize> = (0..frames).map(|frame| frame * books + index + 1).collect();
            let [logits] = e.linear(&mut e.select(&hidden, &rows), [head]);
            e.tensor(&logits, 0..frames)
        };
        self.lm_head.iter().enumerate().map(head).collect()
    }

    fn check_frames(&self, residual: &[Vec<u32>]) -> Result<()> {
        if residual.is_empty() {
            return Err(Error::Request("there are no frames".into()));
        }
        residual.iter().try_for_each(|codes| self.check(codes))
    }

    /// Embeddings `[F, D]` of the codes of each residual codebook.
    fn rows_of<E: Engine>(&self, e: &E, residual: &[Vec<u32>]) -> impl Iterator<Item = E::Rows> {
        self.codec_embedding.iter().enumerate().map(move |(book, table)| {
            let ids: Vec<u32> = residual.iter().map(|codes| codes[book]).collect();
            e.embed(table, &e.ids(&ids))
        })
    }
}
