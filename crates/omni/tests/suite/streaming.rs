//! Stages at once: cancelling, readers that go away or never read, guards, stages that fail.

use std::time::Duration;

use qwen3_omni::{
    ChunkRamp, Error, Event, FinishReason, GenerateOptions, Guards, Message, Omni, Reply, ReplyStream, SpeechFinish,
    Stages,
};
use serde_json::{Value, json};

const SUM: &str = "what is seven plus five";

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

fn tiny() -> Omni {
    Omni::builder(testkit::tiny()).load().unwrap()
}

fn question(text: &str) -> [Message; 1] {
    [Message::user().text(text)]
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

/// Everything of a stream: text, samples, reply.
fn collect(stream: impl Iterator<Item = Result<Event, Error>>) -> (String, Vec<f32>, Reply) {
    let (mut text, mut samples, mut reply) = (String::new(), Vec::new(), None);
    for event in stream {
        assert!(reply.is_none(), "an event after `Done`");
        match event.unwrap() {
            Event::Text(piece) => text.push_str(&piece),
            Event::Audio(sound) => samples.extend(sound.samples),
            Event::Done(done) => reply = Some(*done),
            other => panic!("unknown event {other:?}"),
        }
    }
    (text, samples, reply.expect("a stream ends with `Done`"))
}

/// Random weights write and speak for as long as they may.
fn endless() -> GenerateOptions {
    greedy().max_new_tokens(100).max_codes(2000).guards(Guards::off())
}

#[test]
fn drafted_codes_are_counted_and_change_no_greedy_answer() {
    let omni = nano();
    let plain = omni.generate(&question(SUM), &greedy()).unwrap();
    let drafted = omni.generate(&question(SUM), &greedy().draft_codes(2)).unwrap();
    let samples = |reply: &Reply| reply.speech.as_ref().unwrap().audio.samples.clone();
    assert_eq!(samples(&drafted), samples(&plain));
    assert_eq!((plain.usage.drafted_codes, plain.usage.accepted_codes), (0, 0));
    assert!(0 < drafted.usage.accepted_codes && drafted.usage.accepted_codes < drafted.usage.drafted_codes);
}

#[test]
fn the_first_sound_leaves_before_the_text_is_complete() {
    let omni = tiny();
    let options = endless().max_codes(40);
    let sound_before_last_text = |stages| {
        let stream = omni.stream(&question("hello"), &options.clone().stages(stages)).unwrap();
        let events: Vec<Event> = stream.map(Result::unwrap).collect();
        let last_text = events.iter().rposition(|event| matches!(event, Event::Text(_))).unwrap();
        events[..last_text].iter().any(|event| matches!(event, Event::Audio(_)))
    };
    assert!(sound_before_last_text(Stages::Concurrent));
    assert!(!sound_before_last_text(Stages::Sequential));
}

#[test]
fn cancelling_keeps_what_was_made_and_says_so() {
    let omni = tiny();
    let mut stream = omni.stream(&question("hello"), &endless()).unwrap();
    let canceller = stream.canceller();
    let (mut text, mut samples, mut reply) = (String::new(), 0, None);
    for event in &mut stream {
        match event.unwrap() {
            Event::Text(piece) => text.push_str(&piece),
            Event::Audio(sound) => {
                samples += sound.samples.len();
                canceller.cancel();
                canceller.clone().cancel();
            }
            Event::Done(done) => reply = Some(*done),
            other => panic!("unknown event {other:?}"),
        }
    }
    let reply = reply.unwrap();
    assert_eq!((&reply.text, reply.finish_reason), (&text, FinishReason::Cancelled));
    let speech = reply.speech.unwrap();
    assert_eq!(speech.finish_reason, SpeechFinish::Cancelled);
    // A few pieces may have been on their way, not two thousand frames.
    assert!((1..300).contains(&speech.codes.len()), "{} frames", speech.codes.len());
    assert!(samples <= speech.codes.len() * speech.samples_per_frame);
    canceller.cancel();
    assert!(stream.next().is_none());
}

#[test]
fn cancelling_before_anything_was_made_gives_an_empty_reply() {
    let omni = nano();
    let stream = omni.stream(&question(SUM), &greedy()).unwrap();
    stream.cancel();
    stream.cancel();
    let (text, _, reply) = collect(stream);
    // The thinker may have begun: what it wrote is a beginning of the answer.
    assert!("twelve seven plus five is twelve".contains(&text) || reply.text.starts_with(&text));
    assert!(matches!(reply.finish_reason, FinishReason::Cancelled | FinishReason::End));
    assert_eq!(omni.generate(&question("repeat cat"), &greedy()).unwrap().text, "cat");
}

#[test]
fn a_reader_that_is_late_misses_nothing() {
    let omni = tiny();
    let options = endless().max_new_tokens(60).max_codes(60);
    let expected = collect(omni.stream(&question("hello"), &options).unwrap());
    let stream = omni.stream(&question("hello"), &options).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let late = collect(stream);
    assert_eq!((&late.0, late.1.len()), (&expected.0, expected.1.len()));
    assert_eq!(late.2.speech.unwrap().codes, expected.2.speech.unwrap().codes);
}

#[test]
fn dropped_and_unread_streams_end_their_threads() {
    let omni = tiny();
    for read in [0, 1, 5] {
        let mut stream = omni.stream(&question("hello"), &endless()).unwrap();
        for _ in 0..read {
            stream.next().unwrap().unwrap();
        }
        drop(stream);
    }
    // The model is shared by the threads: it is freed when the last one has ended.
    let model = omni.clone();
    drop(omni);
    let ended = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        model.is_unique()
    });
    assert!(ended, "threads still hold the model");
}

#[test]
fn a_talker_beyond_its_text_is_stopped_with_the_reason() {
    let omni = tiny();
    let stopped = |guards| {
        let options = greedy().guards(guards).max_new_tokens(3);
        let speech = omni.generate(&question("hello"), &options).unwrap().speech.unwrap();
        (speech.finish_reason, speech.codes.len())
    };
    let alone = stopped(Guards::off());
    assert!(alone.1 > 53, "{alone:?}");
    let overrun = Guards::off().frames_per_token(1);
    assert_eq!(stopped(overrun), (SpeechFinish::Overrun, 53));
    // Random weights are not silent.
    assert_eq!(stopped(Guards::off().silent_frames(3)), alone);
    let silence = Guards::off().silent_frames(usize::MAX).looping_frames(usize::MAX);
    assert_eq!(stopped(silence), alone);
}

/// The small checkpoint with a vocoder that says nothing: its last convolution is zero.
fn mute() -> tempfile::TempDir {
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let path = directory.path().join("model-00003-of-00003.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    for name in ["code2wav.decoder.5.conv.weight", "code2wav.decoder.5.conv.bias"] {
        let offset = |i: usize| start + header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        bytes[offset(0)..offset(1)].fill(0);
    }
    std::fs::write(&path, bytes).unwrap();
    directory
}

#[test]
fn a_silent_voice_and_a_loop_are_stopped_at_the_same_frame_for_every_ramp() {
    let directory = mute();
    let omni = Omni::builder(directory.path()).load().unwrap();
    let said = |omni: &Omni, guards, chunks| {
        let options = greedy().guards(guards).chunks(chunks).max_new_tokens(3);
        let speech = omni.generate(&question("hello"), &options).unwrap().speech.unwrap();
        (speech.finish_reason, speech.codes, speech.audio.samples.len(), speech.samples_per_frame)
    };
    let silent = Guards::off().silent_frames(20);
    for chunks in [ChunkRamp::default(), ChunkRamp::fixed(1), ChunkRamp::fixed(7), ChunkRamp::fixed(1000)] {
        let (stop, codes, samples, per_frame) = said(&omni, silent, chunks);
        assert_eq!((stop, codes.len(), samples), (SpeechFinish::Silence, 20, 20 * per_frame), "{chunks:?}");
    }
    let talkative = tiny();
    let whole = said(&talkative, Guards::off(), ChunkRamp::default()).1;
    // The first code that stood among the sixteen before it.
    let first = |frame: &Vec<u32>| frame[0];
    let repeats = |at: usize| whole[at.saturating_sub(16)..at].iter().any(|frame| first(frame) == first(&whole[at]));
    let expected = (0..whole.len()).find(|at| repeats(*at)).expect("a code comes twice in a while");
    for chunks in [ChunkRamp::default(), ChunkRamp::fixed(3)] {
        let looping = Guards::off().looping_frames(1);
        let (stop, codes, ..) = said(&talkative, looping, chunks);
        assert_eq!((stop, codes.as_slice()), (SpeechFinish::Loop, &whole[..expected]), "{chunks:?}");
    }
}

#[test]
fn guards_do_not_touch_speech_that_goes_well() {
    let omni = nano();
    let with = |guards| omni.generate(&question(SUM), &greedy().guards(guards)).unwrap().speech.unwrap();
    let (on, off) = (with(Guards::default()), with(Guards::off()));
    assert_eq!((on.codes, on.finish_reason), (off.codes, SpeechFinish::End));
}

#[test]
fn what_was_heard_grows_with_what_was_played() {
    let omni = nano();
    let reply = omni.generate(&question(SUM), &greedy()).unwrap();
    let speech = reply.speech.as_ref().unwrap();
    let per_frame = speech.samples_per_frame;
    assert_eq!(speech.text_ends.len(), reply.usage.text_tokens);
    assert_eq!(reply.played(0).text, "");
    assert_eq!((reply.played(1).frames, reply.played(1).tokens), (1, 1));
    // The last samples of a frame come with the next one.
    assert_eq!(reply.played(per_frame - speech.lookahead).frames, 1);
    assert_eq!(reply.played(per_frame - speech.lookahead + 1).frames, 2);
    let texts: Vec<String> = (0..=speech.codes.len()).map(|frame| reply.played(frame * per_frame).text).collect();
    assert!(texts.windows(2).all(|pair| reply.text.starts_with(&pair[1]) && pair[1].starts_with(&pair[0])));
    let all = reply.played(usize::MAX);
    assert_eq!((all.text, all.frames), (reply.text.clone(), speech.codes.len()));
    assert!(reply.real_time_factor().unwrap() > 0.0 && reply.tokens_per_second() > 0.0);
    assert!(reply.usage.cache_bytes > 0);
}

#[test]
fn a_stage_that_fails_in_the_middle_ends_the_stream_once() {
    // The talker's context is too short for its prompt: it fails when the thinker has already written.
    let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
    let path = directory.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["talker_config"]["text_config"]["max_position_embeddings"] = json!(12);
    std::fs::write(&path, config.to_string()).unwrap();
    let omni = Omni::builder(directory.path()).load().unwrap();
    let long = question("a very long question about everything there is");
    let mut stream = omni.stream(&long, &endless()).unwrap();
    let error = stream.find_map(Result::err).expect("the talker fails");
    assert!(matches!(error, Error::ContextLength { limit: 12, .. }), "{error}");
    assert!(stream.next().is_none());
    // Without speech the model still answers.
    let options = greedy().max_new_tokens(3);
    assert_eq!(omni.generate(&long, &options.text_only()).unwrap().token_ids.len(), 3);
}

#[test]
fn streams_of_many_threads_do_not_mix() {
    let omni = nano();
    let asked = ["repeat cat", "repeat dog seven", "what is one plus one", "repeat red red blue"];
    let alone: Vec<Reply> = asked.iter().map(|q| omni.generate(&question(q), &greedy()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (asked, alone) in asked.iter().zip(&alone) {
            for ramp in [ChunkRamp::fixed(1), ChunkRamp::default()] {
                let omni = &omni;
                scope.spawn(move || {
                    let stream: ReplyStream = omni.stream(&question(asked), &greedy().chunks(ramp)).unwrap();
                    let (text, _, reply) = collect(stream);
                    assert_eq!(text, alone.text);
                    assert_eq!(reply.speech.unwrap().codes, alone.speech.as_ref().unwrap().codes);
                });
            }
        }
    });
}

#[test]
fn an_asynchronous_reader_gets_the_same_events() {
    let omni = nano();
    let expected = collect(omni.stream(&question(SUM), &greedy()).unwrap());
    let mut stream = omni.stream(&question(SUM), &greedy()).unwrap().into_async();
    let (text, samples, reply) = collect(futures_lite::stream::block_on(&mut stream));
    assert_eq!((text, samples.len()), (expected.0, expected.1.len()));
    assert_eq!(reply.speech.unwrap().codes, expected.2.speech.unwrap().codes);
    assert!(futures_lite::stream::block_on(&mut stream).next().is_none());
}
