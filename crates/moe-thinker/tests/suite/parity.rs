//! Parity with the reference: merged media, every layer, routing, logits and greedy decoding.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 7] = [
    "thinker_audio",
    "thinker_audio_in_video",
    "thinker_batch",
    "thinker_image",
    "thinker_mixed",
    "thinker_text",
    "thinker_video",
];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
