//! A conversation by voice: it listens all the time, answers aloud, and stops when you speak.

use std::thread;
use std::time::Duration;

use qwen3_omni::{ConversationEvent, ConversationOptions, GenerateOptions, Message, Omni, Result};
use weights_tools::commands::{Output, note};

use crate::live::{Microphone, Speakers};

/// How often the conversation is told what was played.
const TICK: Duration = Duration::from_millis(50);

/// Talks until the program is ended.
///
/// # Errors
/// [`qwen3_omni::Error::Device`] without microphone or speakers, [`qwen3_omni::Error::NotLoaded`] for a model that does not hear.
pub fn talk(omni: &Omni, opening: Vec<Message>, options: GenerateOptions, out: &Output) -> Result<()> {
    let speakers = Speakers::open()?;
    let mut session = omni.session();
    opening.into_iter().for_each(|message| session.push(message));
    let (conversation, events) = session.converse(ConversationOptions::default().answer(options))?;
    let recorder = conversation.clone();
    let _microphone = Microphone::open(move |samples, rate| recorder.push(samples, rate))?;
    let played = speakers.counter(omni.sample_rate());
    thread::spawn(move || {
        loop {
            conversation.played(played());
            thread::sleep(TICK);
        }
    });
    note("speak; Ctrl-C ends. With headphones the model cannot hear itself.");
    for event in events {
        match event {
            Ok(event) => serve(event, &speakers, out)?,
            // One turn that cannot be answered does not end the conversation.
            Err(error) => note(format_args!("error: {error}")),
        }
    }
    Ok(())
}

fn serve(event: ConversationEvent, speakers: &Speakers, out: &Output) -> Result<()> {
    match event {
        ConversationEvent::TurnEnded => speakers.begin(),
        ConversationEvent::Text(piece) => out.text(piece),
        ConversationEvent::Audio(sound) => speakers.queue(&sound)?,
        ConversationEvent::Interrupted(_) => speakers.clear(),
        ConversationEvent::Done(_) => {
            speakers.flush();
            out.line("");
        }
        _ => {}
    }
    Ok(())
}
