//! The machine's microphone and speakers, as the program `qwen3-omni` opens them.

#[path = "../../crates/cli/src/live/mod.rs"]
#[expect(dead_code, reason = "the program also waits until an answer was played")]
mod devices;

use std::thread;
use std::time::Duration;

use qwen3_omni::{Audio, ConversationOptions, Omni, Result};

use super::{Player, follow};
use devices::{Microphone, Speakers};

/// How often the conversation is told what was played.
const TICK: Duration = Duration::from_millis(50);

/// Talks until the program is ended.
pub(super) fn talk(omni: &Omni, options: ConversationOptions) -> Result<()> {
    let mut speakers = Speakers::open()?;
    let (conversation, events) = omni.session().converse(options)?;
    let recorder = conversation.clone();
    let _microphone = Microphone::open(move |samples, rate| recorder.push(samples, rate))?;
    let played = speakers.counter(omni.sample_rate());
    thread::spawn(move || {
        loop {
            conversation.played(played());
            thread::sleep(TICK);
        }
    });
    eprintln!("speak; Ctrl-C ends. With headphones the model cannot hear itself.");
    follow(events, &mut speakers)
}

impl Player for Speakers {
    fn begin(&mut self) -> Result<()> {
        Speakers::begin(self);
        Ok(())
    }

    fn queue(&mut self, sound: &Audio) -> Result<()> {
        Speakers::queue(self, sound)
    }

    fn stop(&mut self) {
        self.clear();
    }

    fn end(&mut self) {
        self.flush();
    }
}
