//! Windows: lines as their sources give them, sorted by length and cut into batches.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qwen3_omni::ReadMedia;

use super::batch::BatchItem;
use super::cursor::Cursor;
use super::line::Line;
use super::options::BatchOptions;
use super::order::permutation;
use super::sample::{ReadSample, SampleReader};
use super::state::SourceState;
use crate::random::Purpose;
use crate::{Error, Result};

/// Draws lines from the sources and groups them.
pub(super) struct Windows {
    cursor: Cursor,
    reader: Arc<SampleReader>,
    options: BatchOptions,
    window: u64,
    /// Set once nobody waits for windows any more.
    stop: Arc<AtomicBool>,
}

/// The batches of one window, in their order.
pub(super) struct Window {
    pub(super) index: u64,
    pub(super) start: Vec<SourceState>,
    pub(super) end: Vec<SourceState>,
    pub(super) batches: Vec<Vec<Drawn>>,
}

/// A line whose length is known; what was read is kept only while there is memory for it.
pub(super) struct Drawn {
    source: usize,
    line: Line,
    tokens: usize,
    read: Option<ReadLine>,
}

struct ReadLine {
    sample: ReadSample,
    rejected: Option<ReadSample>,
}

impl Windows {
    pub(super) fn new(
        cursor: Cursor,
        reader: Arc<SampleReader>,
        options: BatchOptions,
        window: u64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self { cursor, reader, options, window, stop }
    }

    /// The next window; `None` behind the last one.
    pub(super) fn next(&mut self) -> Result<Option<Window>> {
        let start = self.cursor.states().to_vec();
        let drawn = self.draw_all()?;
        if drawn.is_empty() {
            return Ok(None);
        }
        let (index, end) = (self.window, self.cursor.states().to_vec());
        self.window += 1;
        Ok(Some(Window { index, start, end, batches: self.batches(drawn, index) }))
    }

    /// Draws the lines of a window.
    fn draw_all(&mut self) -> Result<Vec<Drawn>> {
        let BatchOptions { window, tokens_per_batch, rows, memory, .. } = self.options;
        // A window is no longer than the data: few lines would fill it many times over.
        let all = self.cursor.lines().max(1);
        let most_rows = rows.map_or(all, |rows| rows.saturating_mul(window).min(all));
        // Each batch may leave up to one line's tokens unused, so a window draws about that much less.
        let most_tokens = |longest: usize| window.saturating_mul(tokens_per_batch - longest.min(tokens_per_batch / 2));
        let (mut drawn, mut tokens, mut longest, mut held) = (Vec::new(), 0, 0, 0);
        let full = |tokens, longest, lines| tokens >= most_tokens(longest) || lines >= most_rows;
        while !full(tokens, longest, drawn.len()) && !self.stop.load(Ordering::Relaxed) {
            let Some(mut next) = self.draw()? else { break };
            (tokens, longest) = (tokens + next.tokens, longest.max(next.tokens));
            held += next.read.as_ref().map_or(0, ReadLine::bytes);
            if held > memory {
                // What does not fit is read again when its batch is made.
                held -= next.read.take().map_or(0, |read| read.bytes());
            }
            drawn.push(next);
        }
        Ok(drawn)
    }

    fn draw(&mut self) -> Result<Option<Drawn>> {
        let (reader, options) = (&self.reader, &self.options);
        let drawn = self.cursor.next(|line| {
            let read = read_checked(reader, options, &line)?;
            let tokens = read.tokens();
            Ok(((line, read), tokens))
        })?;
        Ok(drawn.map(|(source, (line, read))| Drawn { source, line, tokens: read.tokens(), read: Some(read) }))
    }

    /// Sorts lines by length, cuts them into batches and shuffles these.
    fn batches(&self, mut drawn: Vec<Drawn>, window: u64) -> Vec<Vec<Drawn>> {
        drawn.sort_by_key(|drawn| drawn.tokens);
        let lengths: Vec<usize> = drawn.iter().map(|drawn| drawn.tokens).collect();
        let mut drawn = drawn.into_iter();
        let cuts = cut(&lengths, self.options.tokens_per_batch, self.options.rows);
        let mut batches: Vec<Vec<Drawn>> =
            cuts.into_iter().map(|cut| drawn.by_ref().take(cut.len()).collect()).collect();
        if !self.options.shuffle {
            return batches;
        }
        let order = permutation(batches.len() as u32, Purpose::Batches, &[self.options.seed, window]);
        order.into_iter().map(|batch| std::mem::take(&mut batches[batch as usize])).collect()
    }
}

impl Drawn {
    /// Reads the line, unless that is done.
    pub(super) fn into_item(self, reader: &SampleReader, options: &BatchOptions) -> Result<BatchItem> {
        let Self { source, line, read: kept, .. } = self;
        let ReadLine { sample, rejected } = match kept {
            Some(read) => read,
            None => read(reader, options, &line)?,
        };
        Ok(BatchItem { source, line, sample, rejected })
    }
}

impl ReadLine {
    fn tokens(&self) -> usize {
        self.sample.ids.len() + self.rejected.as_ref().map_or(0, |read| read.ids.len())
    }

    /// Bytes of its media and ids.
    fn bytes(&self) -> usize {
        let of_sample = |read: &ReadSample| {
            let media = read.media.iter().map(|item| match item {
                ReadMedia::Sound(mel) => size_of_val(mel.values()),
                ReadMedia::Picture(patches) => patches.colours().len(),
                ReadMedia::Video(clip) => clip.patches().colours().len(),
            });
            media.sum::<usize>() + read.ids.len() * (size_of::<u32>() + size_of::<Option<u32>>())
        };
        of_sample(&self.sample) + self.rejected.as_ref().map_or(0, of_sample)
    }
}

fn read(reader: &SampleReader, options: &BatchOptions, line: &Line) -> Result<ReadLine> {
    let rejected = if options.rejected { reader.read_rejected(line)? } else { None };
    if options.rejected && rejected.is_none() {
        return Err(line.location.refuse("no rejected answer, expected `rejected_response` or `rejected_messages`"));
    }
    Ok(ReadLine { sample: reader.read(line)?, rejected })
}

/// Reads a line that is to fit into a batch and to be learned from.
fn read_checked(reader: &SampleReader, options: &BatchOptions, line: &Line) -> Result<ReadLine> {
    let read = read(reader, options, line)?;
    let (tokens, limit) = (read.tokens(), options.tokens_per_batch);
    if tokens > limit {
        let (path, line) = (line.location.path.to_path_buf(), line.location.line);
        return Err(Error::Conversation { path, line, source: omni_core::Error::ContextLength { tokens, limit } });
    }
    match options.needs_labels && read.sample.learned() == 0 {
        true => Err(line.location.refuse("nothing to learn, expected an assistant message without `\"loss\": false`")),
        false => Ok(read),
    }
}

/// Cuts lengths into as few runs as have at most `tokens` in sum and `rows` in number, and as even as possible, because each step
/// counts alike whatever its batch holds.
pub(crate) fn cut(lengths: &[usize], tokens: usize, rows: Option<usize>) -> Vec<Range<usize>> {
    let fewest = filled(lengths, tokens, rows).len();
    // The smallest of the largest runs.
    let (mut too_small, mut enough) = (0, tokens);
    while too_small + 1 < enough {
        let middle = too_small + (enough - too_small) / 2;
        match filled(lengths, middle, rows).len() > fewest {
            true => too_small = middle,
            false => enough = middle,
        }
    }
    filled(lengths, enough, rows)
}

/// Cuts lengths into runs that are filled one after another.
fn filled(lengths: &[usize], tokens: usize, rows: Option<usize>) -> Vec<Range<usize>> {
    let (mut cuts, mut start, mut sum) = (Vec::new(), 0, 0);
    for (at, length) in lengths.iter().enumerate() {
        if at > start && (sum + length > tokens || rows.is_some_and(|rows| at - start >= rows)) {
            cuts.push(start..at);
            (start, sum) = (at, 0);
        }
        sum += length;
    }
    if start < lengths.len() {
        cuts.push(start..lengths.len());
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_as_much_as_fits() {
        assert_eq!(cut(&[1, 2, 3, 4, 5], 6, None), [0..3, 3..4, 4..5]);
        assert_eq!(cut(&[1, 1, 1, 1, 5], 6, Some(2)), [0..2, 2..4, 4..5]);
        assert_eq!(cut(&[6, 6], 6, Some(8)), [0..1, 1..2]);
        assert_eq!(cut(&[1; 7], 6, None), [0..4, 4..7], "even ones");
        assert_eq!(cut(&[9, 1], 6, None), [0..1, 1..2], "one that is too long");
        assert!(cut(&[], 6, None).is_empty());
    }
}
