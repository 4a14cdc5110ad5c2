//! Merged media, every layer, routing, logits and greedy decoding equal the reference's, on the device of `OMNI_TEST_DEVICE`.

use weights_tools::verify::assert_cases;

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
    assert_cases(&testkit::tiny(), &testkit::golden(), &testkit::device_name(), &CASES);
}
