use burn::tensor::{Int, Tensor};
use omni_core::{CodeFrames, Result, Stage, Vocoder, Waveform};

use crate::causal_conv::History;
use crate::decoder_block::BlockState;
use crate::pre_transformer::PreTransformerState;
use crate::{Code2Wav, SAMPLE_RATE};

/// What one stream carries: the transformer's last keys and values, the left history of each causal convolution, and
/// the last input of each transposed one.
#[derive(Debug, Clone)]
pub struct VocoderState {
    pub(crate) pre_transformer: PreTransformerState,
    pub(crate) upsample: Vec<History>,
    pub(crate) entrance: History,
    pub(crate) blocks: Vec<BlockState>,
    pub(crate) exit: History,
}

impl VocoderState {
    /// Frames taken so far.
    pub fn frames(&self) -> usize {
        self.pre_transformer.frames
    }
}

/// The reference's chunked decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// Frames per chunk.
    pub frames: usize,
    /// Frames before a chunk that are decoded with it and dropped.
    pub left_context: usize,
}

impl Default for Chunking {
    /// 300 frames, 25 of context: what the reference uses.
    fn default() -> Self {
        Self { frames: 300, left_context: 25 }
    }
}

impl Code2Wav {
    /// All frames at once, exact.
    ///
    /// # Shapes
    /// `[B, Q, F]` → `[B, F * samples_per_frame - lookahead]`.
    pub fn decode(&self, codes: Tensor<3, Int>) -> Tensor<2> {
        self.run(&mut self.start(), codes, &mut ())
    }

    /// A step of each of several streams, together where the device allows: each weight is read once for all of them. What
    /// [`Stage::step`] gives for each; the streams may differ in everything but the model.
    ///
    /// Together they go where the convolutions are prepared for half precision on the CPU; everywhere else they go one after the
    /// other. Convolutions give each stream the very numbers it gets alone. Linear layers multiply nine rows and more in another
    /// way than fewer, so that samples may differ by the rounding of bf16, as they do when one stream comes in other pieces.
    ///
    /// # Shapes
    /// codes `[1, Q, F]` each, of any `F` of at least 1 → samples `[1, N]` each.
    pub fn step_many(&self, steps: Vec<(&mut VocoderState, CodeFrames)>) -> Vec<Result<Waveform>> {
        let one_row = !steps.is_empty() && steps.iter().all(|(_, input)| input.codes.dims()[0] == 1);
        let Some(host) = self.host().filter(|_| one_row) else {
            return steps.into_iter().map(|(state, input)| self.step(state, input)).collect();
        };
        let (mut states, codes): (Vec<_>, Vec<_>) =
            steps.into_iter().map(|(state, input)| (state, input.codes)).unzip();
        let samples = self.run_on_host(&host, &mut states, codes).into_iter();
        samples.map(|samples| Ok(Waveform { samples })).collect()
    }

    /// As the reference's `generate` does it: chunks decoded apart, each with a left context that is dropped.
    ///
    /// Every chunk lacks the lookahead at its end, so sound jumps a little at each boundary. Offered for parity only;
    /// a stream is exact and needs less memory.
    ///
    /// # Shapes
    /// `[B, Q, F]` → `[B, F * samples_per_frame - chunks * lookahead]`.
    pub fn decode_chunked(&self, codes: Tensor<3, Int>, chunking: Chunking) -> Tensor<2> {
        let frames = codes.dims()[2];
        let chunks = (0..frames).step_by(chunking.frames.max(1)).map(|start| {
            let context = start.min(chunking.left_context);
            let length = chunking.frames.max(1).min(frames - start) + context;
            let samples = self.decode(codes.clone().narrow(2, start - context, length));
            let (dropped, total) = (context * self.samples_per_frame(), samples.dims()[1]);
            samples.narrow(1, dropped, total - dropped)
        });
        Tensor::cat(chunks.collect(), 1)
    }
}

impl Stage for Code2Wav {
    type State = VocoderState;
    type Input = CodeFrames;
    type Output = Waveform;

    fn start(&self) -> VocoderState {
        VocoderState {
            pre_transformer: self.pre_transformer.start(),
            upsample: vec![History::None; self.upsample.len()],
            entrance: History::None,
            blocks: vec![BlockState::default(); self.blocks.len()],
            exit: History::None,
        }
    }

    fn step(&self, state: &mut VocoderState, input: CodeFrames) -> Result<Waveform> {
        Ok(Waveform { samples: self.run(state, input.codes, &mut ()) })
    }

    /// Nothing: the last samples would need a frame that never comes.
    fn finish(&self, _: &mut VocoderState) -> Result<Option<Waveform>> {
        Ok(None)
    }
}

impl Vocoder for Code2Wav {
    fn sample_rate(&self) -> u32 {
        SAMPLE_RATE
    }
}
