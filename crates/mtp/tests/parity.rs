//! Every step of a frame equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

const CASES: [&str; 1] = ["code_predictor"];

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &CASES);
}
