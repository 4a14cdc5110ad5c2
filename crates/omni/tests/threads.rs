//! A model with threads of its own computes with nothing else.
#![allow(clippy::unwrap_used)]

use qwen3_omni::{AudioInput, GenerateOptions, ImageInput, Message, Omni};

// One test: the global pool belongs to the whole process.
#[test]
fn a_model_with_threads_of_its_own_leaves_the_pool_of_the_process_alone() {
    let load = |threads| Omni::builder(testkit::nano()).threads(threads).load();
    let message = load(0).err().unwrap().to_string();
    assert!(message.contains("0 threads"), "{message}");
    let samples = testkit::nano().join("../nano-samples");
    let chats = [
        Message::user().text("repeat cat"),
        Message::user().image(ImageInput::from(samples.join("picture_where.png"))).text("where is the blue square"),
        Message::user().audio(AudioInput::from(samples.join("spoken_sum_question.wav"))),
    ];
    let answers = |threads| {
        let omni = load(threads).unwrap();
        let mut session = omni.session();
        chats.clone().map(|message| {
            session.push(message);
            let reply = session.reply(&GenerateOptions::default().greedy()).unwrap();
            (reply.text, reply.speech.unwrap().codes)
        })
    };
    let alone = answers(1);
    assert_eq!(alone[0].0, "cat");
    assert_eq!(answers(3), alone);
    // It can be set up only as long as nobody has used it.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
}
