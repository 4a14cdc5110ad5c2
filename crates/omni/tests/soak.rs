//! Many sessions at once, with media and cancelled answers: nothing mixes, nothing hangs, nothing leaks.
//!
//! `SOAK_SECONDS` sets how long it runs; ten seconds if not set.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use qwen3_omni::{ChunkRamp, Event, GenerateOptions, Message, Omni};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SESSIONS: u64 = 8;

fn greedy() -> GenerateOptions {
    GenerateOptions::default().greedy()
}

fn questions() -> Vec<Message> {
    let sample = |name: &str| testkit::nano().join("../nano-samples").join(name);
    vec![
        Message::user().text("what is seven plus five"),
        Message::user().text("repeat red cat nine"),
        Message::user().audio(sample("spoken_sum_question.wav")),
        Message::user().image(sample("picture_spoken.png")).audio(sample("picture_spoken_question.wav")),
        Message::user().image(sample("picture_one.png")).text("what is it"),
    ]
}

/// Text, codes and samples of an answer.
type Answered = (String, Vec<Vec<u32>>, usize);

/// Bytes of memory this process holds.
fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_whitespace().nth(1)?.parse::<usize>().ok().map(|pages| pages * 4096)
}

/// One conversation: each question in a session of its own, read to its end, cancelled, or dropped.
fn converse(omni: &Omni, seed: u64, until: Instant, expected: &[Answered]) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let questions = questions();
    let mut answers = 0;
    while Instant::now() < until {
        let which = random.random_range(0..questions.len());
        let chunks = ChunkRamp::default().first(random.random_range(1..4)).most(random.random_range(4..9));
        let mut session = omni.session();
        session.push(questions[which].clone());
        let mut stream = session.answer(&greedy().chunks(chunks)).unwrap();
        // Half of the answers are cancelled or dropped somewhere.
        let (end, drops) = (random.random_range(0..24usize), random.random_range(0..4u8) == 0);
        let (mut text, mut samples, mut read, mut done) = (String::new(), 0, 0, None);
        while let Some(event) = stream.next() {
            match event.unwrap() {
                Event::Text(piece) => text.push_str(&piece),
                Event::Audio(sound) => samples += sound.samples.len(),
                Event::Done(reply) => done = Some(*reply),
                _ => {}
            }
            read += 1;
            if read == end {
                if drops {
                    break;
                }
                stream.cancel();
            }
        }
        let (whole_text, whole_codes, whole_samples) = &expected[which];
        assert!(whole_text.starts_with(&text), "{text} instead of {whole_text}");
        assert!(samples <= *whole_samples);
        if let Some(reply) = done {
            let codes = reply.speech.map_or(Vec::new(), |speech| speech.codes);
            assert_eq!(codes, whole_codes[..codes.len()]);
            if read < end || end == 0 {
                assert_eq!((&text, codes.len(), samples), (whole_text, whole_codes.len(), *whole_samples));
            }
        }
        answers += 1;
    }
    answers
}

#[test]
fn many_sessions_at_once_do_not_mix_hang_or_leak() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let omni = Omni::builder(testkit::nano()).load().unwrap();
    let answered = |question: Message| {
        let reply = omni.generate(&[question], &greedy()).unwrap();
        let speech = reply.speech.unwrap();
        (reply.text, speech.codes, speech.audio.samples.len())
    };
    let expected: Vec<Answered> = questions().into_iter().map(answered).collect();
    let (sender, receiver) = channel();
    let length = Duration::from_secs(seconds);
    let until = Instant::now() + length;
    for seed in 0..SESSIONS {
        let (omni, sender, expected) = (omni.clone(), sender.clone(), expected.clone());
        std::thread::spawn(move || sender.send(converse(&omni, seed, until, &expected)).unwrap());
    }
    drop(sender);
    // Memory settles in the first fifth.
    std::thread::sleep(length / 5);
    let early = resident();
    let (mut answers, mut finished) = (0, 0);
    loop {
        match receiver.recv_timeout(length + Duration::from_secs(120)) {
            Ok(count) => (answers, finished) = (answers + count, finished + 1),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("a session hangs"),
        }
    }
    assert_eq!(finished, SESSIONS, "a session failed");
    if let (Some(early), Some(late)) = (early, resident()) {
        let grown = late.saturating_sub(early);
        eprintln!("{answers} answers in {seconds} s; {early} bytes early, {late} late");
        assert!(grown < 96 << 20, "memory grew by {grown} bytes from {early}");
    }
    let ended = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        omni.is_unique()
    });
    assert!(ended, "threads still hold the model");
}
