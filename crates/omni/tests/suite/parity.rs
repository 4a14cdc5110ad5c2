//! Token ids, rendered conversations, and the whole pipeline from raw sound and pictures equal the reference's, in f32 on the device of
//! `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 4] = ["chat_template_cases", "e2e_mixed", "talker_audio_in_video", "tokenizer_cases"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
