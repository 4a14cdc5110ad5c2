//! Spoken replies that a later request may name instead of repeating them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids;

/// Replies that are kept.
const MOST: usize = 1000;
/// How long each is kept.
const KEPT: Duration = Duration::from_secs(3600);

/// Transcripts of the last spoken replies by their ids, in memory alone.
#[derive(Default)]
pub(crate) struct SpokenReplies {
    replies: Mutex<VecDeque<SpokenReply>>,
}

struct SpokenReply {
    id: String,
    since: Instant,
    transcript: String,
}

impl SpokenReplies {
    fn lock(&self) -> MutexGuard<'_, VecDeque<SpokenReply>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a transcript.
    pub(crate) fn keep(&self, id: &str, transcript: &str) {
        let mut replies = self.lock();
        let old = |reply: &SpokenReply| reply.since.elapsed() > KEPT;
        while replies.len() >= MOST || replies.front().is_some_and(old) {
            replies.pop_front();
        }
        replies.push_back(SpokenReply { id: id.to_owned(), since: Instant::now(), transcript: transcript.to_owned() });
    }

    /// The transcript of a reply that is still kept.
    pub(crate) fn transcript(&self, id: &str) -> Option<String> {
        let replies = self.lock();
        let found = replies.iter().find(|reply| reply.id == id && reply.since.elapsed() <= KEPT);
        found.map(|reply| reply.transcript.clone())
    }
}

/// The time at which a reply that is made now is forgotten.
pub(crate) fn expires_at() -> u64 {
    ids::now() + KEPT.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_replies_are_forgotten() {
        let spoken = SpokenReplies::default();
        for index in 0..MOST + 2 {
            spoken.keep(&index.to_string(), &format!("reply {index}"));
        }
        assert_eq!((spoken.transcript("1"), spoken.transcript("2")), (None, Some("reply 2".into())));
        assert_eq!(spoken.transcript("none"), None);
    }
}
