//! Chunks are as long as the config says.

use burn::tensor::{Device, Tensor, TensorData};
use qwen3_omni_aut_encoder::{AudioConfig, AutEncoder, Checkpoint, Dtype, ModalityEncoder, Place, Weights};

/// Chunks of `2 * n_window` frames, and windows of one chunk.
fn encoder(n_window: usize, place: &Place) -> AutEncoder {
    let checkpoint = Checkpoint::open(testkit::tiny()).unwrap();
    let mut config: AudioConfig = checkpoint.config().section().unwrap();
    (config.n_window, config.n_window_infer) = (n_window, 2 * n_window);
    AutEncoder::load(&Weights::new(&checkpoint, place, Dtype::F32), &config).unwrap()
}

fn rows(encoder: &AutEncoder, frames: &[Tensor<2>]) -> (usize, Vec<f32>) {
    let embeds = encoder.encode(frames.to_vec()).unwrap().embeds;
    (embeds.dims()[0], nn::to_f32_vec(&embeds))
}

#[test]
fn each_chunk_of_a_window_of_its_own_is_encoded_as_if_it_came_alone() {
    for place in [Place::Host(Device::flex()), Place::Device(Device::flex())] {
        for n_window in [49, 50, 52] {
            let (encoder, chunk) = (encoder(n_window, &place), 2 * n_window);
            assert_eq!((encoder.chunk_frames(), encoder.window_frames(), encoder.tokens(chunk)), (chunk, chunk, 13));
            let values = testkit::noise(2 * chunk * 128, n_window as u64);
            let whole = Tensor::from_data(TensorData::new(values, [2 * chunk, 128]), &Device::flex());
            let halves = [0, chunk].map(|start| whole.clone().narrow(0, start, chunk));
            let [(joined, found), (apart, expected)] = [rows(&encoder, &[whole]), rows(&encoder, &halves)];
            assert_eq!((joined, apart), (26, 26));
            assert!(testkit::distance(&expected, &found).1 < 1e-6, "{place:?}, n_window {n_window}");
        }
    }
}
