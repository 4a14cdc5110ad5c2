//! Every layer, routing, logits and greedy decoding equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

#[test]
fn golden_cases() {
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &["thinker_text", "thinker_batch"]);
}
