//! Vocoders and random frames for the tests of this folder.

use qwen3_omni_code2wav::{Checkpoint, Code2Wav, Dtype, Place, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn load(directory: std::path::PathBuf, place: &Place, dtype: Dtype) -> Code2Wav {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let config = checkpoint.config().section().unwrap();
    Code2Wav::load(&Weights::new(&checkpoint, place, dtype), &config).unwrap()
}

/// `[frames, codebooks]`.
pub fn codes(vocoder: &Code2Wav, frames: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut frame =
        || (0..vocoder.codebooks()).map(|_| random.random_range(0..vocoder.codebook_size() as u32)).collect();
    (0..frames).map(|_| frame()).collect()
}
