//! Parity with the reference, from the encoders' inputs on: prompt, every layer, every step, codes and sound of a run.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 4] = ["talker_audio", "talker_audio_in_video", "talker_stop", "talker_text"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
