//! Parity with the reference: every part of whole and chunked decodes.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 3] = ["code2wav_40", "code2wav_5", "code2wav_chunked_330"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
