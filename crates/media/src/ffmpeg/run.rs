//! One run of the program `ffmpeg`.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};

use super::messages::{CUT_OFF, is_clue};
use crate::reason::Reason;

/// Bytes of its first messages, of its last ones, and of telling ones in between that are kept.
const MESSAGES: usize = 2048;

/// A running `ffmpeg`; dropping this ends it.
pub(crate) struct Run {
    child: Child,
    output: ChildStdout,
    messages: Option<JoinHandle<Vec<u8>>>,
}

impl Run {
    pub(crate) fn start(arguments: &[OsString]) -> io::Result<Self> {
        let mut command = Command::new("ffmpeg");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().expect("the output is a pipe");
        let errors = child.stderr.take().expect("the messages are a pipe");
        let messages = thread::Builder::new().name("ffmpeg messages".into()).spawn(move || gather(errors));
        // From here on, dropping ends the child.
        let mut run = Self { child, output, messages: None };
        run.messages = Some(messages?);
        Ok(run)
    }

    pub(crate) fn output(&mut self) -> &mut ChildStdout {
        &mut self.output
    }

    /// Waits for the program to end; an error holds its messages.
    pub(crate) fn finish(mut self) -> Result<(), Reason> {
        let more = self.output.read(&mut [0])?;
        if more > 0 {
            return Err("more frames came than were asked for".into());
        }
        let status = self.child.wait()?;
        let messages = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let messages = one_line(&String::from_utf8_lossy(&messages));
        let cut_off = CUT_OFF.iter().any(|sign| messages.contains(sign));
        match status.success() && !cut_off {
            true => Ok(()),
            false if messages.is_empty() => Err(status.to_string().into()),
            false => Err(messages.into()),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, so that the program never blocks.
fn gather(errors: ChildStderr) -> Vec<u8> {
    let (mut errors, mut line, mut kept) = (BufReader::new(errors), Vec::new(), Kept::default());
    // What cannot be read is missing from a message, which is no reason to fail.
    while errors.by_ref().take(MESSAGES as u64).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        kept.push(&line);
        line.clear();
    }
    [kept.head, kept.clues, kept.tail.into()].concat()
}

/// The messages that are kept of however many there are: a video that begins inside a group of pictures makes some for each frame.
#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    /// Lines in between that decide what is done next.
    clues: Vec<u8>,
    tail: VecDeque<u8>,
}

impl Kept {
    fn push(&mut self, line: &[u8]) {
        if self.head.len() + line.len() <= MESSAGES {
            self.head.extend(line);
        } else if self.clues.len() < MESSAGES && is_clue(&String::from_utf8_lossy(line)) {
            self.clues.extend(line);
        } else {
            self.tail.extend(line);
            let over = self.tail.len().saturating_sub(MESSAGES);
            self.tail.drain(..over);
        }
    }
}

/// The messages without the names of the parts that wrote them, which hold addresses.
fn one_line(messages: &str) -> String {
    let lines = messages.lines().map(|line| match line.split_once(" @ 0x") {
        Some((_, rest)) => rest.split_once("] ").map_or("", |(_, text)| text.trim()),
        None => line.trim(),
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The formats that are opened. None of them names other files, as playlists and manifests do: with those, whoever sent one could
/// have any file on this machine read.
const FORMATS: &str = "aac,ac3,aiff,alaw,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dv,eac3,flac,flv,gif,gsm,h264,hevc,ivf,loas,m4v,\
    matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mulaw,mxf,nut,obu,ogg,rm,swf,tak,tiff_pipe,tta,voc,w64,wav,wv,xwma";

/// Arguments of every run: no questions, no network, no lists of other files, and an end at the first error.
pub(crate) fn arguments(for_input: &[&str], input: &OsStr) -> Vec<OsString> {
    let quiet = [
        "-nostdin",
        "-hide_banner",
        "-v",
        "error",
        "-xerror",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        FORMATS,
    ];
    let mut arguments: Vec<OsString> = quiet.iter().chain(for_input).map(OsString::from).collect();
    arguments.extend(["-i".into(), input.to_owned()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_last_and_telling_messages_are_kept() {
        let mut kept = Kept::default();
        kept.push(b"first\n");
        (0..1000).for_each(|_| kept.push(b"no frame!\n"));
        kept.push(b"Invalid time base: demux\n");
        (0..1000).for_each(|_| kept.push(b"no frame!\n"));
        kept.push(b"last\n");
        assert!(kept.head.starts_with(b"first\n"));
        assert_eq!(kept.clues, b"Invalid time base: demux\n");
        assert!(kept.tail.len() <= MESSAGES && kept.tail.make_contiguous().ends_with(b"last\n"));
    }

    #[test]
    fn messages_become_one_line() {
        assert_eq!(one_line("one \n\n  two\r\n[mov @ 0x55] three\n"), "one; two; three");
    }
}
