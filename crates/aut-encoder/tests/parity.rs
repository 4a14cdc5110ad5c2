//! Convolutions, windows, every layer and the rows equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

const CASES: [&str; 5] =
    ["audio_encoder_batch", "audio_encoder_exact_chunk", "audio_encoder_multi", "audio_encoder_short", "audio_lengths"];

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &CASES);
}
