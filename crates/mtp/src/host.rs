//! One frame on the CPU: every step in memory that is there, from scores to ids without tensors.

use burn::tensor::{Int, Tensor, TensorData};
use kernels::Inputs;
use nn::{on_pool, with_numbers};
use omni_core::{FrameCodes, Positions};

use crate::CodePredictor;
use crate::predict::PredictorState;

/// Memory of a frame, kept from frame to frame.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    rows: Vec<f32>,
    logits: Vec<f32>,
    codes: Vec<i64>,
    sum: Vec<f32>,
}

impl CodePredictor {
    /// `None`, and nothing happened, where weights do not lie in host memory, or sampling needs tensors.
    pub(crate) fn predict_on_host(
        &self,
        state: &mut PredictorState,
        hidden: &Tensor<3>,
        first: &Tensor<3>,
    ) -> Option<FrameCodes> {
        let ([batch, _, width], device) = (hidden.dims(), hidden.device());
        if batch != 1 || !state.sampler.samples_rows() || !self.on_host() {
            return None;
        }
        let mut memory = std::mem::take(&mut state.memory);
        memory.rows.clear();
        for row in [hidden, first] {
            with_numbers(row, |row| memory.rows.extend_from_slice(row));
        }
        on_pool(|| self.frame(state, &mut memory, width));
        let codes = TensorData::new(memory.codes.clone(), [1, memory.codes.len()]);
        let residual = Tensor::<2, Int>::from_data(codes, &device);
        let embeds = Tensor::from_data(TensorData::new(memory.sum.clone(), [1, 1, width]), &device);
        state.memory = memory;
        Some(FrameCodes { residual, embeds })
    }

    fn frame(&self, state: &mut PredictorState, memory: &mut Memory, width: usize) {
        let Memory { rows, logits, codes, sum } = memory;
        state.decoder.clear();
        codes.clear();
        sum.clear();
        sum.resize(width, 0.0);
        let mut inputs = Inputs::default();
        for (index, (head, table)) in self.lm_head.iter().zip(&self.codec_embedding).enumerate() {
            let tokens = rows.len() / width;
            let positions = Positions::sequence(state.decoder.tokens() as f32, tokens);
            let ran = self.model.forward_rows(&mut state.decoder, rows, &positions);
            assert!(ran.expect("a frame has no more positions than codebooks"), "the decoder is on the CPU");
            inputs.set(&rows[rows.len() - width..], width);
            head.rows_to(&mut inputs, logits).expect("the head is on the CPU");
            let code = state.sampler.sample_row(logits).expect("the sampler takes rows");
            codes.push(i64::from(code));
            rows.resize(width, 0.0);
            table.row_to(code, rows).expect("the table is on the CPU");
            sum.iter_mut().zip(&*rows).for_each(|(sum, x)| *sum += x);
            if index + 1 == self.lm_head.len() {
                break;
            }
        }
    }

    fn on_host(&self) -> bool {
        let parts = self.lm_head.iter().zip(&self.codec_embedding);
        self.model.is_on_host() && parts.into_iter().all(|(head, table)| head.is_on_host() && table.is_on_host())
    }
}
