use burn::tensor::Tensor;
use nn::{DecoderRun, Engine, on_engine};
use omni_core::{Error, Positions, Result};

use crate::CodePredictor;

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

/// The residual codebooks' embeddings and logits of given frames.
#[derive(Debug, Clone)]
pub struct GivenFramesOutput {
    /// `[F, V]` for each residual codebook: logits of its codes.
    pub logits: Vec<Tensor<2>>,
    /// `[F, D]`: sum of the residual codes' embeddings, part of the talker's next input.
    pub embeds: Tensor<2>,
}

impl CodePredictor {
    /// Sums the embeddings of the residual codes of several frames.
    ///
    /// # Shapes
    /// `[F, Q - 1]` → `[F, D]`.
    ///
    /// # Errors
    /// [`Error::Request`] for no frames, another number of codes, or a code outside its table.
    pub fn embed_frames(&self, residual: &[Vec<u32>]) -> Result<Tensor<2>> {
        let tables = self.residual_rows(residual)?;
        Ok(tables.into_iter().reduce(|sum, rows| sum + rows).expect("there is at least one residual codebook"))
    }

    /// Predicts all residual codes of frames at once, each from the given codes before it (teacher forcing).
    ///
    /// # Errors
    /// The errors of [`CodePredictor::embed_frames`], and [`Error::Request`] for rows of another number or width.
    pub fn teacher_forced(&self, frames: &GivenFrames) -> Result<GivenFramesOutput> {
        let GivenFrames { hidden, first, residual } = frames;
        let (count, books) = (residual.len(), self.codebooks());
        let expected = [count, self.width()];
        if hidden.dims() != expected || first.dims() != expected {
            let (hidden, first) = (hidden.dims(), first.dims());
            return Err(Error::Request(format!(
                "frames start from {hidden:?} and {first:?}, expected {expected:?} each"
            )));
        }
        let rows = self.residual_rows(residual)?;
        let embeds = rows.iter().cloned().reduce(|sum, rows| sum + rows).expect("there is a residual codebook");
        // The last codebook's code has no successor to predict.
        let inputs = [hidden.clone(), first.clone()].into_iter().chain(rows).take(books);
        let x = Tensor::stack::<3>(inputs.collect(), 1).reshape([count * books, self.width()]); // [F * Q, D]
        let logits = on_engine!(self.engine, |e| self.all_logits(e, &x, count));
        Ok(GivenFramesOutput { logits, embeds })
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

    /// Embeddings `[F, D]` of the codes of each residual codebook.
    fn residual_rows(&self, residual: &[Vec<u32>]) -> Result<Vec<Tensor<2>>> {
        if residual.is_empty() {
            return Err(Error::Request("there are no frames".into()));
        }
        residual.iter().try_for_each(|codes| self.check(codes))?;
        let tables = self.codec_embedding.iter().enumerate();
        Ok(on_engine!(self.engine, |e| {
            let rows = tables.map(|(book, table)| {
                let ids: Vec<u32> = residual.iter().map(|codes| codes[book]).collect();
                e.tensor(&e.embed(table, &e.ids(&ids)), 0..ids.len())
            });
            rows.collect()
        }))
    }
}
