//! Conversations by voice, at any pace of the sound.

use qwen3_omni::media::audio::{SAMPLE_RATE, read};
use qwen3_omni::{
    AudioInput, ConversationEvent, ConversationEvents, ConversationOptions, GenerateOptions, Message, Omni, Role,
    TurnDetector, VoiceDetector,
};

/// Speaks while the sound is not silent.
struct Loud {
    quiet: usize,
}

impl TurnDetector for Loud {
    fn is_speaking(&mut self, frame: &[f32]) -> bool {
        let voice = frame.iter().any(|sample| sample.abs() > 0.01);
        self.quiet = if voice { 0 } else { self.quiet.saturating_add(1) };
        self.quiet < 20
    }

    fn reset(&mut self) {
        self.quiet = 1000;
    }
}

fn nano() -> Omni {
    Omni::builder(testkit::nano()).load().unwrap()
}

fn options() -> ConversationOptions {
    ConversationOptions::default().answer(GenerateOptions::default().greedy()).detector(Loud { quiet: 1000 })
}

fn spoken(name: &str) -> Vec<f32> {
    let mut sound = read(&AudioInput::from(testkit::nano().join("../nano-samples").join(name))).unwrap();
    sound.extend(std::iter::repeat_n(0.0, SAMPLE_RATE as usize));
    sound
}

/// The events up to `Done`, or to `Interrupted`, as short words, with the text and the samples.
fn answer(events: &mut ConversationEvents, last: &str) -> (Vec<&'static str>, String, usize) {
    let (mut words, mut text, mut samples) = (Vec::new(), String::new(), 0);
    for event in events {
        let word = match event.unwrap() {
            ConversationEvent::SpeechStarted => "started",
            ConversationEvent::TurnResumed => "resumed",
            ConversationEvent::TurnEnded => "ended",
            ConversationEvent::Text(piece) => {
                text.push_str(&piece);
                "text"
            }
            ConversationEvent::Audio(sound) => {
                samples += sound.samples.len();
                "audio"
            }
            ConversationEvent::Interrupted(_) => "interrupted",
            ConversationEvent::Done(_) => "done",
            other => panic!("{other:?}"),
        };
        if words.last() != Some(&word) {
            words.push(word);
        }
        if word == last {
            break;
        }
    }
    (words, text, samples)
}

#[test]
fn a_spoken_question_is_answered_when_its_turn_ends() {
    let omni = nano();
    let (conversation, mut events) = omni.session().converse(options()).unwrap();
    for piece in spoken("spoken_sum_question.wav").chunks(1000) {
        conversation.push(piece, SAMPLE_RATE);
    }
    let (words, text, samples) = answer(&mut events, "done");
    assert_eq!((text.as_str(), words[..3].to_vec()), ("five plus seven is twelve", vec!["started", "ended", "text"]));
    assert!(samples > 0);
    let roles: Vec<Role> = conversation.messages().iter().map(Message::role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant]);
    // All of it was played: the next question interrupts nothing.
    conversation.played(samples);
    conversation.say(Message::user().text("repeat red cat nine"));
    let (words, ..) = answer(&mut events, "done");
    assert_eq!(words.first(), Some(&"text"));
    drop(conversation);
    assert!(events.next().is_none());
}

#[test]
fn speech_interrupts_an_answer_and_is_heard() {
    let omni = nano();
    let (conversation, mut events) = omni.session().converse(options()).unwrap();
    conversation.say(Message::user().text("what is seven plus five"));
    let (_, text, samples) = answer(&mut events, "done");
    assert_eq!(text, "seven plus five is twelve");
    // A part of the sound was played when the person speaks again.
    conversation.played(samples / 8);
    for piece in spoken("spoken_sum_question.wav").chunks(4000) {
        conversation.push(piece, SAMPLE_RATE);
    }
    let (words, ..) = answer(&mut events, "done");
    assert_eq!(words[..3], ["started", "interrupted", "ended"]);
    let messages = conversation.messages();
    let roles: Vec<Role> = messages.iter().map(Message::role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::Assistant]);
    let said = format!("{:?}", messages[1]);
    assert!(said.contains("seven") && !said.contains("twelve"), "{said}");
    // Nothing of it was played: the answer is taken back.
    conversation.played(0);
    conversation.interrupt();
    answer(&mut events, "interrupted");
    assert_eq!(conversation.messages().len(), 3);
}

#[test]
fn speech_that_goes_on_before_the_answer_is_heard_goes_on_with_its_turn() {
    let omni = nano();
    let (conversation, mut events) = omni.session().converse(options()).unwrap();
    let question = spoken("spoken_sum_question.wav");
    let (first, rest) = question.split_at(question.len() / 3);
    conversation.push(first, SAMPLE_RATE);
    conversation.push(&[0.0; 8000], SAMPLE_RATE);
    answer(&mut events, "ended");
    // All of the answer may have been handed out, but nothing of it was played.
    conversation.played(0);
    conversation.push(rest, SAMPLE_RATE);
    let (words, ..) = answer(&mut events, "resumed");
    assert!(
        words.ends_with(&["started", "interrupted", "resumed"])
            || words.ends_with(&["started", "done", "interrupted", "resumed"]),
        "{words:?}"
    );
    let (words, text, samples) = answer(&mut events, "done");
    assert_eq!(words[0], "ended");
    let roles = || conversation.messages().iter().map(Message::role).collect::<Vec<Role>>();
    assert_eq!(roles(), [Role::User, Role::Assistant]);
    let joined = &conversation.messages()[..1];
    assert_eq!(omni.generate(joined, &GenerateOptions::default().greedy()).unwrap().text, text);
    // Both pieces, with the pause.
    let pieces = AudioInput::samples(question[..question.len() - SAMPLE_RATE as usize].to_vec(), SAMPLE_RATE, 1);
    let tokens = |message| omni.prompt(&[message], &GenerateOptions::default()).unwrap().tokens();
    assert!(tokens(joined[0].clone()) > tokens(Message::user().audio(pieces)));
    // Now the beginning of the answer was played.
    conversation.played(samples / 2);
    conversation.push(&question, SAMPLE_RATE);
    let (words, ..) = answer(&mut events, "done");
    assert_eq!(words[..3], ["started", "interrupted", "ended"]);
    assert_eq!(roles(), [Role::User, Role::Assistant, Role::User, Role::Assistant]);
}

#[test]
fn an_interruption_while_it_is_generated_stops_it() {
    let omni = nano();
    let (conversation, mut events) = omni.session().converse(options()).unwrap();
    conversation.say(Message::user().text("what is seven plus five"));
    conversation.played(0);
    conversation.interrupt();
    let (words, ..) = answer(&mut events, "interrupted");
    assert_eq!(words.last(), Some(&"interrupted"));
    assert_eq!(conversation.messages().len(), 1);
    conversation.say(Message::user().text("what is seven plus five"));
    let (words, ..) = answer(&mut events, "done");
    assert!(words.contains(&"done"));
}

#[test]
fn an_answer_that_cannot_be_interrupted_is_given_first_and_the_turn_is_kept() {
    let omni = nano();
    let (conversation, mut events) = omni.session().converse(options().interruptible(false)).unwrap();
    conversation.say(Message::user().text("what is seven plus five"));
    conversation.played(0);
    conversation.push(&spoken("spoken_sum_question.wav"), SAMPLE_RATE);
    let (words, text, _) = answer(&mut events, "done");
    assert!(!words.contains(&"started") && text == "seven plus five is twelve", "{words:?} {text}");
    let (words, ..) = answer(&mut events, "done");
    assert_eq!(words[..2], ["started", "ended"]);
    assert_eq!(conversation.messages().len(), 4);
}

#[test]
fn a_button_ends_a_turn_and_wrong_sound_is_an_error_that_ends_nothing() {
    let omni = nano();
    let (conversation, mut events) = omni.session().converse(options()).unwrap();
    conversation.push(&[0.5, f32::NAN], SAMPLE_RATE);
    assert!(events.next().unwrap().unwrap_err().to_string().contains("not a finite number"));
    let question = spoken("spoken_sum_question.wav");
    conversation.push(&question[..question.len() - SAMPLE_RATE as usize], SAMPLE_RATE);
    conversation.end_turn();
    let (words, text, _) = answer(&mut events, "done");
    assert_eq!((words[..2].to_vec(), text.as_str()), (vec!["started", "ended"], "five plus seven is twelve"));
    // Without an audio encoder there is nothing to listen with.
    let deaf = Omni::builder(testkit::nano()).without_media().load().unwrap();
    assert!(deaf.session().converse(options()).is_err());
}

#[test]
fn events_are_a_stream_for_asynchronous_readers() {
    let omni = nano();
    let (conversation, events) = omni.session().converse(options()).unwrap();
    conversation.say(Message::user().text("repeat red cat nine"));
    drop(conversation);
    let mut text = String::new();
    for event in futures_lite::stream::block_on(events.into_async()) {
        if let ConversationEvent::Text(piece) = event.unwrap() {
            text.push_str(&piece);
        }
    }
    assert_eq!(text, "red cat nine");
}

#[test]
fn voice_begins_a_turn_and_noise_does_not() {
    let mut detector = VoiceDetector::default();
    let mut turns = |sound: &[f32]| {
        let (frames, _) = sound.as_chunks::<256>();
        let speaking: Vec<bool> = frames.iter().map(|frame| detector.is_speaking(frame)).collect();
        speaking.windows(2).filter(|pair| pair[0] != pair[1]).count()
    };
    let noise: Vec<f32> = testkit::noise(2 * SAMPLE_RATE as usize, 1).iter().map(|sample| 0.003 * sample).collect();
    assert_eq!(turns(&noise), 0);
    // It begins once and ends once.
    assert_eq!(turns(&[&noise[..8000], &spoken("spoken_sum_question.wav"), &noise].concat()), 2);
}
