//! The list of frames that ffmpeg writes in its format `framecrc`.

use crate::video::track::Timing;
use crate::{MediaError, Result};

/// Most frames: more than a day and a half at 30 frames per second.
const MOST_FRAMES: usize = 1 << 22;

/// What the lines so far have told.
#[derive(Debug, Default)]
pub(super) struct Listing {
    seconds_per_tick: Option<(f64, f64)>,
    size: Option<(usize, usize)>,
    /// Number of bytes of a decoded frame.
    bytes: Option<u64>,
    starts: Vec<i64>,
    last_length: i64,
}

impl Listing {
    /// Takes the next line: a heading, or a frame's track, decoding time, time, length, bytes and checksum.
    pub(super) fn line(&mut self, line: &str, origin: &str) -> Result<()> {
        let read = match line.strip_prefix('#') {
            Some(heading) => self.heading(heading),
            None => self.frame(line),
        };
        let damaged =
            || MediaError::damaged(origin, format!("ffmpeg lists a frame as {line:?}, which is not understood"));
        read.ok_or_else(damaged)?;
        let frames = self.starts.len();
        if frames > MOST_FRAMES {
            return Err(MediaError::unusable(origin, format!("the video has more than {MOST_FRAMES} frames")));
        }
        Ok(())
    }

    fn heading(&mut self, heading: &str) -> Option<()> {
        if let Some(base) = heading.strip_prefix("tb 0:") {
            let (ticks, seconds) = base.trim().split_once('/')?;
            self.seconds_per_tick = Some((ticks.parse().ok()?, seconds.parse().ok()?));
        } else if let Some(size) = heading.strip_prefix("dimensions 0:") {
            let (width, height) = size.trim().split_once('x')?;
            self.size = Some((width.parse().ok()?, height.parse().ok()?));
        }
        Some(())
    }

    fn frame(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split(',').map(str::trim).skip(2);
        let (start, length) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let bytes = fields.next()?.parse().ok()?;
        // Nothing else would reveal a frame of another size; it would be read as a piece of a frame.
        if *self.bytes.get_or_insert(bytes) != bytes {
            self.bytes = Some(u64::MAX);
        }
        // Without a time, a frame follows its predecessor.
        let next = self.starts.last().map_or(0, |last: &i64| last.saturating_add(self.last_length));
        self.starts.push(if start == i64::MIN { next } else { start });
        self.last_length = length;
        Some(())
    }

    /// The frames' times and their width and height.
    pub(super) fn finish(self, origin: &str) -> Result<(Timing, usize, usize)> {
        if self.starts.is_empty() {
            return Err(MediaError::unusable(origin, "the video has no frames"));
        }
        if self.bytes == Some(u64::MAX) {
            return Err(MediaError::unsupported(origin, "the size or kind of its frames changes on the way"));
        }
        let damaged = || MediaError::damaged(origin, "ffmpeg tells neither the size nor the time of its frames");
        let ((ticks, seconds), (width, height)) = self.seconds_per_tick.zip(self.size).ok_or_else(damaged)?;
        let ticks_per_second = seconds / ticks;
        if !ticks_per_second.is_finite() || ticks_per_second <= 0.0 {
            return Err(damaged());
        }
        Ok((Timing::new(self.starts, self.last_length, ticks_per_second), width, height))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(lines: &[&str]) -> Result<(Timing, usize, usize)> {
        let mut listing = Listing::default();
        lines.iter().try_for_each(|line| listing.line(line, "clip"))?;
        listing.finish("clip")
    }

    const HEAD: [&str; 3] = ["#software: Lavf59.27.100", "#tb 0: 1/1000", "#dimensions 0: 64x48"];

    #[test]
    fn frames_and_headings_are_read() {
        let rows = ["0,   100,   100,   40,   4608, 0x1234", "0, 140, 140, 40, 4608, 0x12, S=1, 8, 0x0"];
        let (timing, width, height) = listed(&[&HEAD[..], &rows].concat()).unwrap();
        assert_eq!((width, height, timing.duration, timing.ticks_per_second), (64, 48, 80, 1000.0));
        assert_eq!(timing.timestamps, [0, 40]);
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let error = |rows: &[&str]| listed(&[&HEAD[..], rows].concat()).unwrap_err().to_string();
        assert!(error(&[]).contains("no frames"));
        assert!(error(&["0, 1, 1, 1, 8, 0x0", "0, 2, 2, 1, 9, 0x0"]).contains("changes"));
        assert!(error(&["0, 1, x"]).contains("not understood"));
        assert!(listed(&["0, 1, 1, 1, 8, 0x0"]).unwrap_err().to_string().contains("neither"));
    }
}
