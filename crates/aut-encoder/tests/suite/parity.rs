//! Parity with the reference: convolutions, windows, every layer and the rows.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 5] =
    ["audio_encoder_batch", "audio_encoder_exact_chunk", "audio_encoder_multi", "audio_encoder_short", "audio_lengths"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
