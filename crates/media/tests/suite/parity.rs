//! Parity with the reference: log-mel frames within its rounding, sizes and pixels exactly.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 13] = [
    "image_pre_img_a",
    "image_pre_img_b",
    "image_pre_img_grey",
    "image_pre_img_rgba",
    "mel_batch",
    "mel_constants",
    "mel_long",
    "mel_mid",
    "mel_short",
    "smart_resize",
    "video_pre_default",
    "video_pre_small",
    "video_sampling",
];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
