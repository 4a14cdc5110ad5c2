//! Token ids and rendered conversations equal the reference's, in f32 on the device of `OMNI_TEST_DEVICE`; on the CPU with both
//! engines, and in bf16 too.

use testkit::parity::assert_cases;

const CASES: [&str; 2] = ["chat_template_cases", "tokenizer_cases"];

#[test]
fn golden_cases() {
    assert_cases(&CASES);
}
