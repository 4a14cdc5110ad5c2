//! Sound of any length: tokens by the formula, and memory that grows by the log-mel frames and the rows only.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::Checkpoint;
use peak_alloc::PeakAlloc;
use qwen3_omni::aut_encoder::AutEncoder;
use qwen3_omni::media::audio::log_mel;
use qwen3_omni::{Dtype, ModalityEncoder, Place, checkpoint};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn write_wav(path: &Path, minutes: usize) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    (0..minutes * 60 * 16_000).for_each(|i| writer.write_sample(((i * i) % 9973) as i16 - 4986).unwrap());
    writer.finalize().unwrap();
}

/// Tokens, peak bytes, and bytes of the log-mel frames and the rows.
fn encode(encoder: &AutEncoder, path: &Path) -> [usize; 3] {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mel = log_mel(&[path.into()]).unwrap().remove(0);
    let (frames, bins) = (mel.frames(), mel.bins());
    let item = Tensor::from_data(TensorData::new(mel.into_values(), [frames, bins]), &Device::flex());
    let encoded = encoder.encode(vec![item]).unwrap();
    let [tokens, width] = encoded.embeds.dims();
    [tokens, MEMORY.peak_usage() - before, 4 * (frames * bins + tokens * width)]
}

#[test]
fn memory_grows_by_log_mel_frames_and_rows_only() {
    let checkpoint = Checkpoint::open(testkit::nano()).unwrap();
    let encoder = AutEncoder::from_checkpoint(&checkpoint, &Place::Host(Device::flex()), Dtype::F32).unwrap();
    assert_eq!(encoder.tokens(40 * 60 * 100), 31_200);
    let directory = tempfile::tempdir().unwrap();
    let [short, long] = [2, 8].map(|minutes| {
        let path = directory.path().join("long.wav");
        write_wav(&path, minutes);
        let measured = encode(&encoder, &path);
        println!(
            "{minutes} minutes: {} tokens, peak {} bytes, {} of frames and rows",
            measured[0], measured[1], measured[2]
        );
        measured
    });
    assert_eq!([short[0], long[0]], [1_560, 6_240]);
    // A growing list may have room for twice what it holds, and rows are joined once at the end.
    assert!(long[1] - short[1] <= 2 * (long[2] - short[2]) + (8 << 20), "{short:?} {long:?}");
    let flat = long[1].saturating_sub(2 * long[2]);
    assert!(flat < 16 << 20, "{flat} bytes that are neither frames nor rows");
}
