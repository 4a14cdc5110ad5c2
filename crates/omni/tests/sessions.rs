//! Sessions: what a turn knows from earlier ones changes its cost, never its answer.
#![allow(clippy::unwrap_used)]

use qwen3_omni::{Error, Event, GenerateOptions, Heard, Message, Omni, Reply, Role, Session, SpeechStop, TextStop};

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
    let fresh = omni.generate(session.messages(), &greedy()).unwrap();
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
    assert_eq!(first.usage.known_tokens, 0);
    let mut read = first.usage.prompt_tokens;
    let turns = [
        Message::user().text("repeat red cat nine"),
        Message::user().audio(sample("spoken_sum_question.wav")),
        Message::user().image(sample("picture_one.png")),
        Message::user().text("repeat dog"),
    ];
    for message in turns {
        let reply = turn(&omni, &mut session, message);
        // All of the last prompt is known, and at least the beginning of its answer's turn.
        let known = reply.usage.known_tokens;
        assert!(known >= read && known < reply.usage.prompt_tokens, "{known} of {}", reply.usage.prompt_tokens);
        read = reply.usage.prompt_tokens;
    }
    assert_eq!(session.messages().len(), 10);
    assert!(session.cache_bytes() > 0);
    session.forget();
    assert_eq!(session.cache_bytes(), 0);
    assert_eq!(turn(&omni, &mut session, Message::user().text("repeat cat")).usage.known_tokens, 0);
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
    assert!(other.known_tokens > 10 && other.known_tokens < before.prompt_tokens, "{other:?}");
    session.truncate(2);
    turn(&omni, &mut session, Message::user().text("what is one plus one"));
}

#[test]
fn an_interrupted_answer_is_cut_where_it_was_heard() {
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
    assert!(matches!(reply.speech.as_ref().unwrap().stop, SpeechStop::Cancelled | SpeechStop::End));
    let heard = reply.heard(played.min(2 * reply.speech.as_ref().unwrap().samples_per_frame));
    session.cut(&heard).unwrap();
    assert_eq!((session.messages().len(), heard.tokens), (2, 2.min(heard.frames)));
    assert!(reply.text.starts_with(&heard.text) && !heard.text.is_empty());
    turn(&omni, &mut session, Message::user().text("what is one plus one"));
    // Nothing was heard: the answer is taken back.
    session.cut(&Heard { text: String::new(), tokens: 0, frames: 0 }).unwrap();
    assert_eq!(session.messages().last().map(Message::role), Some(Role::User));
    let error = session.cut(&heard).unwrap_err();
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
    assert_eq!((reply.text.as_str(), reply.text_stop), ("red cat nine", TextStop::End));
    // A turn that cannot be read changes nothing either.
    session.push(Message::user().image("/no/such/picture.png"));
    assert!(session.reply(&greedy()).is_err());
    session.truncate(2);
    turn(&omni, &mut session, Message::user().text("repeat dog"));
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
