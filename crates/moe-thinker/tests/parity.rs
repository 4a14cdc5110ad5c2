//! Every layer, routing, logits and greedy decoding equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

const CASES: [&str; 2] = ["thinker_batch", "thinker_text"];

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &CASES);
}
