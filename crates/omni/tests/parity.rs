//! Token ids and rendered conversations equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

const CASES: [&str; 2] = ["chat_template_cases", "tokenizer_cases"];

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &CASES);
}
