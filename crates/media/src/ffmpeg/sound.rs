//! The first sound track by ffmpeg, with all its channels.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};

use super::input::Input;
use super::messages::{absent, failed, no_such_track};
use super::run::{Run, arguments};
use crate::{MediaError, Result, Source};

/// Callback that takes interleaved samples, the rate and the number of channels.
pub(crate) type Interleaved<'a> = dyn FnMut(&[f32], u32, usize) -> Result<()> + 'a;

/// Most channels: ffmpeg's own limit.
const MOST_CHANNELS: u32 = 64;

/// Samples of all channels that are handed on at a time, about.
const PIECE: usize = 1 << 14;

/// Hands the first sound track to `sink` in pieces of interleaved samples, with their rate and number of channels; false if there
/// is no sound.
///
/// ffmpeg's own mix to one channel is louder than the mean (by 3 dB for stereo), so it is asked for all channels.
///
/// # Errors
/// [`MediaError::Unsupported`] without `ffmpeg`, [`MediaError::Damaged`] if it cannot read the source to the end; what `sink`
/// returns.
pub(crate) fn sound(source: &Source, why: &str, sink: &mut Interleaved) -> Result<bool> {
    let input = Input::new(source)?;
    let mut arguments = arguments(&[], &input.argument());
    // Of the formats with a header, AU's is the simplest, and a pipe will do for it.
    let options = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "pcm_f32be", "-f", "au", "-"];
    arguments.extend(options.map(OsString::from));
    let mut run = Run::start(&arguments).map_err(|error| absent(&input, why, error))?;
    let format = Format::read(run.output()).map_err(|error| input.unreadable(error))?;
    if let Some(format) = &format {
        format.samples(&mut run, &input, sink)?;
    }
    match run.finish() {
        Ok(()) if format.is_none() => Err(failed(&input, "it wrote nothing")),
        Ok(()) => Ok(true),
        Err(messages) if no_such_track(messages.text()) => Ok(false),
        Err(messages) => Err(failed(&input, messages)),
    }
}

/// What the header says that ffmpeg writes.
struct Format {
    rate: u32,
    channels: usize,
}

impl Format {
    /// Reads the header; `None` if it does not come.
    fn read(output: &mut impl Read) -> std::io::Result<Option<Self>> {
        let mut header = [0; 24];
        match output.read_exact(&mut header) {
            Ok(()) => (),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let words = header.as_chunks::<4>().0;
        let [magic, offset, _, coding, rate, channels] = [0, 1, 2, 3, 4, 5].map(|at| u32::from_be_bytes(words[at]));
        const FLOAT: u32 = 6;
        let known = magic == u32::from_be_bytes(*b".snd") && coding == FLOAT;
        if !known || !(1..=MOST_CHANNELS).contains(&channels) {
            return Err(ErrorKind::InvalidData.into());
        }
        std::io::copy(&mut output.take(u64::from(offset).saturating_sub(24)), &mut std::io::sink())?;
        Ok(Some(Self { rate, channels: channels as usize }))
    }

    fn samples(&self, run: &mut Run, input: &Input, sink: &mut Interleaved) -> Result<()> {
        let size = PIECE.next_multiple_of(self.channels) * 4;
        let mut bytes = Vec::with_capacity(size);
        loop {
            bytes.clear();
            let read = run.output().take(size as u64).read_to_end(&mut bytes);
            read.map_err(|error: std::io::Error| -> MediaError { input.unreadable(error) })?;
            let whole = bytes.len() / (4 * self.channels) * self.channels;
            if whole == 0 {
                return Ok(());
            }
            let samples = bytes.as_chunks().0[..whole].iter().map(|sample| f32::from_be_bytes(*sample));
            sink(&samples.collect::<Vec<_>>(), self.rate, self.channels)?;
        }
    }
}
