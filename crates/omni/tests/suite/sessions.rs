//! Sessions: what the prefix cache holds changes the cost of a turn, never its answer.

use qwen3_omni::media::audio::read;
use qwen3_omni::{
    AudioInput, Error, Event, FinishReason, GenerateOptions, MelNorm, Message, Omni, Played, Reply, Role, Session,
    SpeechFinish,
};

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

fn sample(name: &str) -> std::path::PathBuf {
    testkit::nano().join("../nano-samples").join(name)
}

/// The next turn of a session, which must be that of a fresh run of the whole conversation.
fn turn(omni: &Omni, session: &mut Session, message: Message) -> Reply {
    session.push(message);
    let fresh = omni.generate(&session.messages(), &greedy()).unwrap();
    let reply = session.reply(&greedy()).unwrap();
    assert_eq!((&reply.text, &reply.token_ids), (&fresh.text, &fresh.token_ids));
    assert_eq!(reply.usage.prompt_tokens, fresh.usage.prompt_tokens);
    let (speech, fresh) = (reply.speech.as_ref().unwrap(), fresh.speech.unwrap());
    assert_eq!(speech.codes, fresh.codes);
    let pairs = speech.audio.samples.iter().zip(&fresh.audio.samples);
    let error = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(error < 1e-4, "{error}");
    reply
}

#[test]
fn every_turn_is_that_of_a_fresh_run_and_computes_only_what_is_new() {
    let omni = nano();
    let mut session = omni.session();
    let first = turn(&omni, &mut session, Message::user().text("what is seven plus five"));
    assert_eq!(first.usage.cached_tokens, 0);
    let mut read = first.usage.prompt_tokens;
    let turns = [
        Message::user().text("repeat red cat nine"),
        Message::user().audio(sample("spoken_sum_question.wav")),
        Message::user().image(sample("picture_one.png")),
        Message::user().text("repeat dog"),
    ];
    for message in turns {
        let reply = turn(&omni, &mut session, message);
        // All of the last prompt is cached, and at least the beginning of its answer's turn.
        let cached = reply.usage.cached_tokens;
        assert!(cached >= read && cached < reply.usage.prompt_tokens, "{cached} of {}", reply.usage.prompt_tokens);
        read = reply.usage.prompt_tokens;
    }
    assert_eq!(session.messages().len(), 10);
    assert!(session.cache_bytes() > 0);
    session.forget().unwrap();
    assert_eq!(session.cache_bytes(), 0);
    assert_eq!(turn(&omni, &mut session, Message::user().text("repeat cat")).usage.cached_tokens, 0);
}

#[test]
fn a_longer_sound_does_not_change_an_earlier_one() {
    let omni = nano();
    let mut session = omni.session();
    // Not a whole number of frames: in a call with a longer sound it would have one frame more.
    let first = &spoken()[..20_037];
    let read = turn(&omni, &mut session, Message::user().audio(AudioInput::samples(first, 16_000, 1))).usage;
    let longer = [spoken(), spoken()].concat();
    let cached = turn(&omni, &mut session, Message::user().audio(AudioInput::samples(longer, 16_000, 1))).usage;
    assert!(cached.cached_tokens >= read.prompt_tokens, "{} of {}", cached.cached_tokens, read.prompt_tokens);
}

#[test]
fn an_edited_turn_keeps_what_stands_before_it() {
    let omni = nano();
    let mut session = omni.session();
    turn(&omni, &mut session, Message::user().text("repeat red cat nine"));
    let before = turn(&omni, &mut session, Message::user().image(sample("picture_one.png"))).usage;
    session.truncate(2);
    let other = turn(&omni, &mut session, Message::user().image(sample("picture_two.png"))).usage;
    // Only the picture's rows and what follows are read again.
    assert!(other.cached_tokens > 10 && other.cached_tokens < before.prompt_tokens, "{other:?}");
    session.truncate(2);
    turn(&omni, &mut session, Message::user().text("what is one plus one"));
}

#[test]
fn an_interrupted_answer_is_truncated_to_what_was_played() {
    let omni = nano();
    let mut session = omni.session();
    session.push(Message::user().text("repeat red cat nine dog"));
    let mut answer = session.answer(&greedy()).unwrap();
    let (mut played, mut reply) = (0, None);
    while let Some(event) = answer.next() {
        match event.unwrap() {
            Event::Audio(sound) => {
                played += sound.samples.len();
                answer.cancel();
            }
            Event::Done(done) => reply = Some(*done),
            _ => {}
        }
    }
    let reply = reply.unwrap();
    assert!(matches!(reply.speech.as_ref().unwrap().finish_reason, SpeechFinish::Cancelled | SpeechFinish::End));
    let heard = reply.played(played.min(2 * reply.speech.as_ref().unwrap().samples_per_frame));
    assert_eq!(heard.tokens, heard.frames);
    assert!((1..=3).contains(&heard.frames), "{} frames", heard.frames);
    assert!(
        reply.text.starts_with(&heard.at_most) && !heard.at_most.is_empty() && heard.at_most.starts_with(&heard.text)
    );
    session.truncate_answer(&heard).unwrap();
    assert_eq!(session.messages().len(), if heard.text.is_empty() { 1 } else { 2 });
    turn(&omni, &mut session, Message::user().text("what is one plus one"));
    // Nothing was played: the answer is taken back.
    session.truncate_answer(&Played::default()).unwrap();
    assert_eq!(session.messages().last().map(Message::role), Some(Role::User));
    let error = session.truncate_answer(&heard).unwrap_err();
    assert!(matches!(error, Error::Request(_)) && error.to_string().contains("end with an answer"), "{error}");
}

#[test]
fn a_dropped_answer_leaves_the_session_usable() {
    let omni = nano();
    let mut session = omni.session();
    session.push(Message::user().text("repeat red cat nine"));
    drop(session.answer(&greedy()).unwrap());
    assert_eq!(session.messages().len(), 1);
    let reply = session.reply(&greedy()).unwrap();
    assert_eq!((reply.text.as_str(), reply.finish_reason), ("red cat nine", FinishReason::End));
    // A turn that cannot be read changes nothing either.
    session.push(Message::user().image("/no/such/picture.png"));
    assert!(session.reply(&greedy()).is_err());
    session.truncate(2);
    turn(&omni, &mut session, Message::user().text("repeat dog"));
}

#[test]
fn an_answer_is_read_in_another_thread_while_the_session_is_added_to() {
    let omni = nano();
    let mut session = omni.session();
    session.push(Message::user().text("repeat red cat nine"));
    let answer = session.answer(&greedy()).unwrap();
    for error in [session.answer(&greedy()).err(), session.forget().err()] {
        let message = error.unwrap().to_string();
        assert!(message.contains("has not ended"), "{message}");
    }
    // The reply stands behind what it answers, whatever was added meanwhile.
    session.push(Message::user().text("repeat dog"));
    let last = std::thread::spawn(move || answer.last().unwrap().unwrap()).join().unwrap();
    assert!(matches!(last, Event::Done(reply) if reply.text == "red cat nine"));
    let roles: Vec<Role> = session.messages().iter().map(Message::role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User]);
    let fresh = omni.generate(&session.messages(), &greedy()).unwrap();
    assert_eq!(session.reply(&greedy()).unwrap().token_ids, fresh.token_ids);
    // What was asked is taken back while it is answered: the reply belongs nowhere.
    session.push(Message::user().text("repeat dog"));
    let answer = session.answer(&greedy()).unwrap();
    session.truncate(2);
    session.push(Message::user().text("repeat cat"));
    assert!(matches!(answer.last(), Some(Ok(Event::Done(_)))));
    assert_eq!(session.messages().len(), 3);
    let fresh = omni.generate(&session.messages(), &greedy()).unwrap();
    assert_eq!(session.reply(&greedy()).unwrap().token_ids, fresh.token_ids);
}

#[test]
fn an_answer_may_outlive_its_session_and_is_a_stream_for_asynchronous_readers() {
    fn owned<T: Send + 'static>(value: T) -> T {
        value
    }
    let omni = nano();
    let mut session = omni.session();
    session.push(Message::user().text("repeat red cat nine"));
    let answer = owned(session.answer(&greedy()).unwrap().into_async());
    drop(owned(session));
    let mut text = String::new();
    for event in futures_lite::stream::block_on(answer) {
        if let Event::Text(piece) = event.unwrap() {
            text.push_str(&piece);
        }
    }
    assert_eq!(text, "red cat nine");
}

#[test]
fn a_session_stays_usable_when_a_stage_fails_or_the_context_is_full() {
    let limited = |key: &str, limit: usize| {
        let directory = testkit::copy_of_tiny(&testkit::TINY_FILES);
        let path = directory.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key]["text_config"]["max_position_embeddings"] = limit.into();
        std::fs::write(&path, config.to_string()).unwrap();
        Omni::builder(directory.path()).load().unwrap()
    };
    let short = || greedy().max_new_tokens(40).max_codes(20);
    // The talker's prompt does not fit: it fails when the thinker has already written.
    let omni = limited("talker_config", 12);
    let mut session = omni.session();
    session.push(Message::user().text("a very long question about everything there is"));
    let error = session.reply(&short()).unwrap_err();
    assert!(matches!(error, Error::ContextLength { limit: 12, .. }), "{error}");
    assert_eq!(session.messages().len(), 1);
    let reply = session.reply(&short().text_only()).unwrap();
    let fresh = omni.generate(&session.messages()[..1], &short().text_only()).unwrap();
    assert_eq!(reply.token_ids, fresh.token_ids);
    // The thinker's context fills up in the middle of the answer; the next turn is refused with its count.
    let omni = limited("thinker_config", 24);
    let mut session = omni.session();
    session.push(Message::user().text("hi"));
    let reply = session.reply(&short()).unwrap();
    assert_eq!((reply.finish_reason, reply.usage.prompt_tokens + reply.token_ids.len()), (FinishReason::Context, 24));
    session.push(Message::user().text("hi"));
    let error = session.reply(&short()).unwrap_err();
    assert!(matches!(error, Error::ContextLength { tokens, limit: 24 } if tokens > 24), "{error}");
    session.truncate(1);
    assert_eq!(session.reply(&short()).unwrap().token_ids, reply.token_ids);
}

#[test]
fn sessions_of_many_threads_do_not_mix() {
    let omni = nano();
    let talk = |word: &str| {
        let mut session = omni.session();
        let mut turn = || {
            session.push(Message::user().text(format!("repeat {word}")));
            let reply = session.reply(&greedy()).unwrap();
            (reply.text, reply.speech.unwrap().codes)
        };
        [turn(), turn(), turn()]
    };
    let words = ["cat", "dog", "red", "nine"];
    let alone = words.map(talk);
    std::thread::scope(|scope| {
        for (word, alone) in words.into_iter().zip(&alone) {
            scope.spawn(move || assert_eq!(&talk(word), alone));
        }
    });
}

/// A spoken question as samples at 16 kHz.
fn spoken() -> Vec<f32> {
    read(&AudioInput::from(sample("spoken_sum_question.wav"))).unwrap()
}

/// The nano model with windows of one second.
fn attentive() -> Omni {
    Omni::builder(testkit::nano()).audio_window(1).load().unwrap()
}

/// Pushes samples in pieces, as a microphone gives them, and ends the turn.
fn speak(session: &mut Session, samples: &[f32], rate: u32, norm: MelNorm) {
    let mut audio_turn = session.audio_turn(&greedy(), norm).unwrap();
    for piece in samples.chunks(rate as usize / 10) {
        audio_turn.push(piece, rate).unwrap();
    }
    assert!(audio_turn.duration().as_secs_f64() > 0.0);
    audio_turn.finish().unwrap();
}

#[test]
fn an_audio_turn_is_answered_as_its_recording() {
    let omni = attentive();
    let question = spoken();
    // The same at 48 kHz, as microphones have it.
    let fast: Vec<f32> = question.iter().flat_map(|sample| [*sample; 3]).collect();
    for (samples, rate) in [(&question, 16_000), (&fast, 48_000)] {
        let mut session = omni.session();
        speak(&mut session, samples, rate, MelNorm::Exact);
        let recording = AudioInput::samples(samples.clone(), rate, 1);
        let fresh = omni.generate(&[Message::user().audio(recording)], &greedy()).unwrap();
        let reply = session.reply(&greedy()).unwrap();
        assert_eq!((&reply.text, reply.usage.prompt_tokens), (&fresh.text, fresh.usage.prompt_tokens), "{rate}");
        assert_eq!(reply.speech.unwrap().codes, fresh.speech.unwrap().codes, "{rate}");
        turn(&omni, &mut session, Message::user().text("repeat red cat nine"));
    }
}

#[test]
fn windows_of_an_audio_turn_are_prefilled_once() {
    let omni = attentive();
    // The loudest second first: later ones cannot change what it is measured against.
    let loud = spoken();
    let long: Vec<f32> = loud.iter().copied().chain(loud.iter().cycle().take(9 * 16_000).map(|x| x * 0.2)).collect();
    let rows = |samples: usize| omni.config().audio.tokens(samples / 160);
    for norm in [MelNorm::Exact, MelNorm::SoFar] {
        let mut session = omni.session();
        speak(&mut session, &long, 16_000, norm);
        let usage = session.reply(&greedy()).unwrap().usage;
        // At most the last window and the end of the turn are left.
        let left = usage.prompt_tokens - usage.cached_tokens;
        assert!(left < rows(16_000) + 12, "{norm:?}: {left} of {} tokens left", usage.prompt_tokens);
    }
}

#[test]
fn an_audio_turn_leaves_earlier_turns_alone() {
    let omni = attentive();
    let mut session = omni.session();
    speak(&mut session, &spoken()[..20_037], 16_000, MelNorm::Exact);
    let first = session.reply(&greedy()).unwrap().usage;
    let long = [spoken(), spoken(), spoken()].concat();
    for norm in [MelNorm::SoFar, MelNorm::Exact] {
        speak(&mut session, &long, 16_000, norm);
        let fresh = omni.generate(&session.messages(), &greedy()).unwrap();
        let reply = session.reply(&greedy()).unwrap();
        assert_eq!(reply.token_ids, fresh.token_ids, "{norm:?}");
        let left = reply.usage.prompt_tokens - reply.usage.cached_tokens;
        assert!(left < 13 + 12 && reply.usage.cached_tokens > first.prompt_tokens, "{norm:?}: {left} left");
    }
}

#[test]
fn a_push_that_fails_loses_and_repeats_nothing() {
    // Room for the opening of the turn and a window, not for two.
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(testkit::nano()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = directory.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["thinker_config"]["text_config"]["max_position_embeddings"] = 24.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let omni = Omni::builder(directory.path()).audio_window(1).load().unwrap();
    let mut session = omni.session();
    let mut audio_turn = session.audio_turn(&greedy(), MelNorm::SoFar).unwrap();
    let samples: Vec<f32> = spoken().into_iter().cycle().take(3 * 16_000).collect();
    let errors = samples.chunks(1_600).filter(|piece| audio_turn.push(piece, 16_000).is_err()).count();
    assert!(errors > 1, "{errors} errors");
    audio_turn.finish().unwrap();
    let tokens = omni.prompt(&session.messages(), &greedy()).unwrap().parts()[0].tokens;
    assert_eq!(tokens, omni.config().audio.tokens(300));
    assert!(matches!(session.reply(&greedy()).unwrap_err(), Error::ContextLength { .. }));
}

#[test]
fn a_sound_that_gets_louder_is_read_again_or_stays_as_it_was_played() {
    let omni = attentive();
    // The loudest moment comes after the last complete window.
    let quiet = spoken().into_iter().cycle().take(84_800).map(|x| x * 1e-3);
    let long: Vec<f32> = quiet.chain((0..8_000).map(|i| (i as f32 * 0.3).sin())).collect();
    let mut session = omni.session();
    speak(&mut session, &long, 16_000, MelNorm::Exact);
    let fresh = omni.generate(&session.messages(), &greedy()).unwrap();
    let reply = session.reply(&greedy()).unwrap();
    assert_eq!((&reply.text, &reply.token_ids), (&fresh.text, &fresh.token_ids));
    assert_eq!(reply.speech.map(|speech| speech.codes), fresh.speech.map(|speech| speech.codes));
    let mut session = omni.session();
    speak(&mut session, &long, 16_000, MelNorm::SoFar);
    let so_far = session.reply(&greedy()).unwrap();
    assert!(so_far.usage.cached_tokens > reply.usage.cached_tokens, "{} cached", so_far.usage.cached_tokens);
    assert_eq!(so_far.usage.prompt_tokens, fresh.usage.prompt_tokens);
}

#[test]
fn silence_is_answered_and_what_is_no_sound_is_refused() {
    let omni = attentive();
    let mut session = omni.session();
    speak(&mut session, &vec![0.0; 2 * 16_000], 16_000, MelNorm::Exact);
    assert!(session.reply(&greedy()).is_ok());
    let count = session.messages().len();
    let mut refused = |pieces: &[(&[f32], u32)]| {
        let mut audio_turn = session.audio_turn(&greedy(), MelNorm::Exact).unwrap();
        let pushed: Result<(), Error> = pieces.iter().try_for_each(|(samples, rate)| audio_turn.push(samples, *rate));
        let error = pushed.and_then(|()| audio_turn.finish()).unwrap_err();
        assert!(matches!(error, Error::Media { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(&[]).contains("no samples"));
    assert!(refused(&[(&[0.1; 100], 16_000)]).contains("100 samples"));
    assert!(refused(&[(&[0.1, f32::NAN], 16_000)]).contains("sample 1 is not a finite number"));
    assert!(refused(&[(&[0.1; 400], 16_000), (&[0.1; 400], 48_000)]).contains("change in the middle"));
    assert!(refused(&[(&[0.1; 400], 0)]).contains("0 samples per second"));
    assert_eq!(session.messages().len(), count);
    let deaf = Omni::builder(testkit::nano()).without_media().load().unwrap();
    let mut session = deaf.session();
    let error = session.audio_turn(&greedy(), MelNorm::Exact).err().unwrap();
    assert!(matches!(error, Error::NotLoaded(_)), "{error}");
}
