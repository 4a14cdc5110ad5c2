//! Several answers at once share the weights: each is what it would be alone, and no more are made than may be.

use std::thread::scope;
use std::time::Duration;

use qwen3_omni::{
    ChunkRamp, Dtype, Error, Event, GenerateOptions, Guards, Message, Omni, Reply, ReplyStream, SamplingOptions,
    SpeechFinish, Stages,
};

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

/// Sums of single-precision numbers in another order.
const SINGLE: f32 = 1e-5;
/// In bf16, rows of several pieces of sound may go through the vocoder's linear layers another way than those of one.
/// Four times what bf16 costs one stream.
const HALF: f32 = 1e-2;

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

/// Random weights write and speak for as long as they may.
fn endless() -> GenerateOptions {
    greedy().max_new_tokens(100).max_codes(2000).guards(Guards::off())
}

fn ask(text: &str) -> [Message; 1] {
    [Message::user().text(text)]
}

fn questions() -> Vec<Message> {
    let sample = |name: &str| testkit::nano().join("../nano-samples").join(name);
    vec![
        Message::user().text("what is seven plus five"),
        Message::user().text("repeat red cat nine"),
        Message::user().audio(sample("spoken_sum_question.wav")),
        Message::user().image(sample("picture_one.png")).text("what is it"),
    ]
}

/// What an answer says: text, ids, codes, samples.
fn contents(reply: Reply) -> (String, Vec<u32>, Vec<Vec<u32>>, Vec<f32>) {
    let speech = reply.speech.unwrap();
    (reply.text, reply.token_ids, speech.codes, speech.audio.samples)
}

/// One answer is another one, its samples within single precision's rounding: joined pieces add up in another order.
fn assert_same(found: Reply, expected: &(String, Vec<u32>, Vec<Vec<u32>>, Vec<f32>)) {
    let (text, ids, codes, samples) = contents(found);
    assert_eq!((&text, &ids, &codes), (&expected.0, &expected.1, &expected.2));
    assert_eq!(samples.len(), expected.3.len());
    let error = samples.iter().zip(&expected.3).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(error < SINGLE, "sound of `{text}`: {error}");
}

/// Puts all requests at once, some rounds long, and compares with each of them alone: text and codes are the same, samples are this
/// close.
fn assert_as_alone(omni: &Omni, requests: &[(Message, GenerateOptions)], tolerance: f32) {
    let answer = |(question, options): &(Message, GenerateOptions)| {
        contents(omni.generate(std::slice::from_ref(question), options).unwrap())
    };
    let alone: Vec<_> = requests.iter().map(answer).collect();
    for round in 0..3 {
        scope(|scope| {
            for (request, alone) in requests.iter().zip(&alone) {
                scope.spawn(move || {
                    let (text, ids, codes, samples) = answer(request);
                    assert_eq!((&text, &ids), (&alone.0, &alone.1), "round {round}");
                    assert_eq!(codes, alone.2, "codes of `{text}`, round {round}");
                    assert_eq!(samples.len(), alone.3.len());
                    let error = samples.iter().zip(&alone.3).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(error < tolerance, "sound of `{text}`: {error}");
                });
            }
        });
    }
}

#[test]
fn four_answers_at_once_are_those_of_each_alone() {
    let requests: Vec<_> = questions().into_iter().map(|question| (question, greedy())).collect();
    assert_as_alone(&nano(), &requests, HALF);
}

#[test]
fn in_single_precision_their_sound_is_the_same_too() {
    let omni = Omni::builder(testkit::nano()).dtype(Dtype::F32).load().unwrap();
    let requests: Vec<_> = questions().into_iter().map(|question| (question, greedy())).collect();
    assert_as_alone(&omni, &requests, SINGLE);
}

#[test]
fn each_answer_keeps_its_own_seed() {
    let hot = |seed| SamplingOptions::talker().temperature(1.2).seed(seed);
    let options = |seed| {
        GenerateOptions::default()
            .thinker(hot(seed))
            .talker(hot(seed))
            .code_predictor(hot(seed))
            .max_new_tokens(24)
            .max_codes(30)
            .seed(seed)
    };
    let requests: Vec<_> = (0..4).map(|seed| (Message::user().text("repeat cat"), options(seed))).collect();
    assert_as_alone(&nano(), &requests, HALF);
}

#[test]
fn more_answers_than_one_batch_takes_and_stages_of_every_kind() {
    // The batches of the talker and the code predictor hold seven.
    let omni = Omni::builder(testkit::tiny()).max_answers(12).load().unwrap();
    let requests = (0..12).map(|which: usize| {
        let options = endless()
            .max_new_tokens(5 + 3 * which)
            .max_codes(40 - 3 * which)
            .stages(if which.is_multiple_of(3) { Stages::Sequential } else { Stages::Concurrent })
            .chunks(ChunkRamp::default().first(1 + which % 3).most(8));
        (Message::user().text(format!("question {which}")), options)
    });
    assert_as_alone(&omni, &requests.collect::<Vec<_>>(), SINGLE);
}

#[test]
fn an_answer_that_ends_early_leaves_the_others_alone() {
    let omni = Omni::builder(testkit::tiny()).load().unwrap();
    let whole = endless().max_codes(60);
    let expected = contents(omni.generate(&ask("hello"), &whole).unwrap());
    scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_same(omni.generate(&ask("hello"), &whole).unwrap(), &expected));
        }
        for end in [1, 4, 9] {
            let omni = &omni;
            scope.spawn(move || {
                let mut stream = omni.stream(&ask("another"), &endless()).unwrap();
                for _ in 0..end {
                    stream.next().unwrap().unwrap();
                }
                if end == 4 {
                    return drop(stream);
                }
                stream.cancel();
                let last = stream.last().unwrap().unwrap();
                let Event::Done(reply) = last else { panic!("{last:?}") };
                assert!(reply.speech.is_none_or(|speech| speech.finish_reason == SpeechFinish::Cancelled));
            });
        }
    });
}

#[test]
fn an_answer_that_fails_leaves_the_others_alone() {
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let path = directory.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["talker_config"]["text_config"]["max_position_embeddings"] = 40.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let omni = Omni::builder(directory.path()).load().unwrap();
    let options = endless().max_new_tokens(30);
    let expected = contents(omni.generate(&ask("hi"), &options).unwrap());
    scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_same(omni.generate(&ask("hi"), &options).unwrap(), &expected));
            scope.spawn(|| {
                // Its talker's prompt does not fit: the thinker has begun by then.
                let long = ask(&"a very long question about everything there is ".repeat(4));
                let error = omni.generate(&long, &options).unwrap_err();
                assert!(matches!(error, Error::ContextLength { limit: 40, .. }), "{error}");
            });
        }
    });
}

/// A stream, as soon as a permit is free.
fn stream_when_free(omni: &Omni) -> ReplyStream {
    for _ in 0..400 {
        match omni.stream(&ask("hello"), &endless()) {
            Ok(stream) => return stream,
            Err(Error::Busy { .. }) => std::thread::sleep(Duration::from_millis(25)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a permit was not returned");
}

#[test]
fn answers_beyond_the_limit_are_refused_until_one_has_ended() {
    let omni = Omni::builder(testkit::tiny()).max_answers(2).load().unwrap();
    let busy = |refused: Result<(), Error>| {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Busy { running: 2, limit: 2 }), "{error}");
        assert!(error.to_string().contains("2 answers are being made"), "{error}");
    };
    // Dropped; read to its end after it was cancelled.
    for drops in [true, false] {
        let [first, _second] = [(), ()].map(|()| stream_when_free(&omni));
        busy(omni.stream(&ask("hello"), &endless()).map(drop));
        busy(omni.generate(&ask("hello"), &endless()).map(drop));
        let mut session = omni.session();
        session.push(Message::user().text("hello"));
        busy(session.answer(&endless()).map(drop));
        busy(omni.clone().stream_prompt(omni.prompt(&ask("hello"), &endless()).unwrap()).map(drop));
        if drops {
            drop(first);
        } else {
            first.cancel();
            first.for_each(|event| drop(event.unwrap()));
            // The permit is returned when `Done` has been handed out.
            let short = greedy().max_new_tokens(2);
            omni.generate(&ask("hello"), &short.text_only()).unwrap();
        }
        drop(stream_when_free(&omni));
    }
}

#[test]
fn refused_requests_hold_no_permit() {
    let omni = Omni::builder(testkit::tiny()).max_answers(1).load().unwrap();
    for _ in 0..3 {
        assert!(matches!(omni.stream(&[], &greedy()).err(), Some(Error::Request(_))));
        let absurd = greedy().max_new_tokens(0);
        assert!(matches!(omni.stream(&ask("hello"), &absurd).err(), Some(Error::Request(_))));
    }
    omni.generate(&ask("hello"), &greedy().max_new_tokens(2).text_only()).unwrap();
}

#[test]
fn a_limit_of_none_is_refused() {
    let error = Omni::builder(testkit::tiny()).max_answers(0).load().err().unwrap();
    assert!(matches!(&error, Error::Request(reason) if reason.contains("max_answers")), "{error}");
}
