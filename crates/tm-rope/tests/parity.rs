//! Parity with the reference: positions and rotation tables.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 16] = [
    "positions_audio",
    "positions_audio_image",
    "positions_audio_in_video_audio_longer",
    "positions_audio_in_video_fractional",
    "positions_audio_in_video_video_longer",
    "positions_image",
    "positions_mixed_left_padded",
    "positions_text",
    "positions_text_left_padded",
    "positions_turns",
    "positions_two_images",
    "positions_video_fractional",
    "positions_video_two_fps",
    "rotary_mrope",
    "rotary_mrope_released",
    "rotary_plain",
];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
