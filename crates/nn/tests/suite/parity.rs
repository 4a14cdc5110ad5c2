//! Parity with the reference: sampling from logits.
//!
//! In f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 1] = ["sampling"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
