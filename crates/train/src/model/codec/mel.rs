use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use super::config::{CodecConfig, ROWS_PER_FRAME};
use crate::loss::{MEL_BINS, MEL_WINDOW, Stft, mel_filters};
use crate::{Error, Result};

/// Magnitudes below this are silence.
const SILENCE: f64 = 1e-4;

/// Log-mel rows of a recording as the codec's encoder sees them: `log10(max(mel, 1e-4)) + 2`, four per codec frame.
#[derive(Debug, Clone)]
pub(crate) struct CodecMel {
    stft: Stft,
    /// `[bins, M]`.
    filters: Tensor<2>,
    samples_per_frame: usize,
}

impl CodecMel {
    /// Makes the transform; `device` may be without gradients.
    pub(crate) fn new(config: &CodecConfig, device: &Device) -> Self {
        let filters = mel_filters(f64::from(config.sampling_rate), MEL_WINDOW);
        let filters = Tensor::from_data(TensorData::new(filters, [MEL_WINDOW / 2 + 1, MEL_BINS]), device);
        Self { stft: Stft::new(MEL_WINDOW, device), filters, samples_per_frame: config.samples_per_frame }
    }

    /// The rows of some frames, and one row before and after them; behind the ends of the recording, rows are 0.
    ///
    /// # Shapes
    /// → `[4 F + 2, M]`.
    pub(crate) fn rows(&self, wave: &[f32], frames: Range<usize>) -> Tensor<2> {
        let all = (ROWS_PER_FRAME * wave.len().div_ceil(self.samples_per_frame)) as isize;
        let [start, end] = [frames.start, frames.end].map(|frame| (ROWS_PER_FRAME * frame) as isize);
        let (start, count) = (start - 1, (end - start) as usize + 2);
        let (hop, window) = ((self.samples_per_frame / ROWS_PER_FRAME) as isize, self.stft.window());
        // A row stands in the middle of its window.
        let before = (window as isize - hop) / 2;
        let sample = |at: isize| usize::try_from(at).ok().and_then(|at| wave.get(at)).copied().unwrap_or(0.0);
        let of_row = |row: isize| (0..window as isize).map(move |n| sample(row * hop - before + n));
        let rows = start..start + count as isize;
        let samples: Vec<f32> = rows.clone().flat_map(of_row).collect();
        let inside: Vec<f32> = rows.map(|row| if (0..all).contains(&row) { 1.0 } else { 0.0 }).collect();
        let device = self.filters.device();
        let frames = Tensor::from_data(TensorData::new(samples, [count, window]), &device);
        let inside = Tensor::<2>::from_data(TensorData::new(inside, [count, 1]), &device);
        let mel = self.stft.of_frames(frames).matmul(self.filters.clone()); // [4 F + 2, M]
        (mel.clamp_min(SILENCE).log() / std::f64::consts::LN_10 + 2.0) * inside
    }

    /// Takes flattened rows of segments apart, each `[1, 4 F + 2, M]`.
    ///
    /// # Errors
    /// [`Error::Batch`] for rows that do not make whole segments.
    pub(crate) fn split(&self, rows: Tensor<1>, frames: usize) -> Result<Vec<Tensor<3>>> {
        let (values, rows_of_one) = (rows.dims()[0], ROWS_PER_FRAME * frames + 2);
        match values.is_multiple_of(rows_of_one * MEL_BINS) {
            true => Ok(rows.reshape([-1, rows_of_one as i32, MEL_BINS as i32]).split(1, 0)),
            false => Err(Error::Batch(format!("{values} values of log-mel rows, expected segments of {rows_of_one}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use code2wav::Code2WavConfig;

    use super::*;

    fn mel() -> CodecMel {
        let config = checkpoint::Checkpoint::open(testkit::nano()).unwrap();
        let vocoder: Code2WavConfig = config.config().section().unwrap();
        CodecMel::new(&CodecConfig::for_vocoder(&vocoder, 8).unwrap(), &Device::flex())
    }

    #[test]
    fn rows_of_a_piece_are_those_of_the_whole_and_nothing_is_behind_the_ends() {
        let (mel, wave): (_, Vec<f32>) = (mel(), (0..5 * 1920 - 100).map(|at| (at as f32 * 0.02).sin()).collect());
        let whole = nn::to_f32_vec(&mel.rows(&wave, 0..5));
        assert_eq!(whole.len(), 22 * MEL_BINS);
        assert!(whole[..MEL_BINS].iter().chain(&whole[21 * MEL_BINS..]).all(|value| *value == 0.0));
        let piece = nn::to_f32_vec(&mel.rows(&wave, 1..3));
        let same = piece.iter().zip(&whole[4 * MEL_BINS..14 * MEL_BINS]).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(same && piece.len() == 10 * MEL_BINS);
        // Silence inside a recording is −2, not 0.
        assert!(
            nn::to_f32_vec(&mel.rows(&[0.0; 1920], 0..1))[MEL_BINS..5 * MEL_BINS]
                .iter()
                .all(|x| (x + 2.0).abs() < 1e-5)
        );
    }

    #[test]
    fn a_row_stands_in_the_middle_of_its_samples() {
        // A click in the middle of the second row's own samples, 480 to 960.
        let mut wave = vec![0.0; 1920];
        wave[720] = 1.0;
        let rows = nn::to_f32_vec(&mel().rows(&wave, 0..1));
        let loudness: Vec<f32> = rows.chunks(MEL_BINS).map(|row| row.iter().sum()).collect();
        assert!((1..5).all(|row| row == 2 || loudness[row] < loudness[2] - 1.0), "{loudness:?}");
        assert!((loudness[1] - loudness[3]).abs() < 1e-2, "{loudness:?}");
    }
}
