use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::line::Line;
use super::location::Location;
use super::order::permutation;
use crate::random::Purpose;
use crate::{Error, Result};

/// One source of a mixture: files of JSON lines, of which only the places of the lines are held.
#[derive(Debug)]
pub struct DataSource {
    name: String,
    share: f64,
    files: Vec<LineFile>,
    lines: u32,
}

#[derive(Debug)]
struct LineFile {
    path: Arc<Path>,
    /// Where each line begins, and where the last one ends.
    offsets: Vec<u64>,
}

impl DataSource {
    /// Finds the lines of files.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming a file that cannot be read; [`Error::Option`] for more than 2³² lines.
    pub fn open(name: impl Into<String>, files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Result<Self> {
        let files = files.into_iter().map(|path| LineFile::open(path.into())).collect::<Result<Vec<_>>>()?;
        let lines: usize = files.iter().map(LineFile::lines).sum();
        let lines = u32::try_from(lines)
            .map_err(|_| Error::Option { name: "source", reason: format!("{lines} lines, expected at most 2^32") })?;
        Ok(Self { name: name.into(), share: 1.0, files, lines })
    }

    /// Sets the source's share of all tokens, in any unit; 1 by default.
    #[must_use]
    pub fn with_share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The share of all tokens.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Number of lines, empty ones included.
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Reads and understands a line, counted from 0 over all files; `None` if it is empty.
    ///
    /// # Errors
    /// The errors of [`Line::parse`]; [`omni_core::Error::Io`] if the file cannot be read any more.
    ///
    /// # Panics
    /// If there are not as many lines.
    pub fn line(&self, index: u32) -> Result<Option<Line>> {
        let written = self.written(index)?;
        written.map(|(text, location)| Line::parse(&text, &location)).transpose()
    }

    /// Reads a line as it is written, with its place; `None` if it is empty.
    ///
    /// # Errors
    /// [`Error::Data`] for a line that is not UTF-8; [`omni_core::Error::Io`] if the file cannot be read any more.
    ///
    /// # Panics
    /// If there are not as many lines.
    pub fn written(&self, index: u32) -> Result<Option<(String, Location)>> {
        let mut index = index as usize;
        for file in &self.files {
            match index.checked_sub(file.lines()) {
                None => return file.written(index),
                Some(rest) => index = rest,
            }
        }
        panic!("line {index} behind the last one of `{}`", self.name)
    }

    /// The order of the lines in an epoch.
    pub(super) fn order(&self, seed: u64, source: usize, epoch: u64) -> Vec<u32> {
        permutation(self.lines, Purpose::Lines, &[seed, source as u64, epoch])
    }
}

impl LineFile {
    fn open(path: PathBuf) -> Result<Self> {
        let offsets = File::open(&path).and_then(|file| offsets(BufReader::with_capacity(1 << 16, file)));
        match offsets {
            Ok(offsets) => Ok(Self { path: path.into(), offsets }),
            Err(source) => Err(omni_core::Error::Io { path, source }.into()),
        }
    }

    fn lines(&self) -> usize {
        self.offsets.len() - 1
    }

    fn written(&self, index: usize) -> Result<Option<(String, Location)>> {
        let location = Location { path: self.path.clone(), line: index as u64 + 1 };
        let bytes = self.read(self.offsets[index], self.offsets[index + 1]);
        let bytes = bytes.map_err(|source| omni_core::Error::Io { path: self.path.to_path_buf(), source })?;
        let text = std::str::from_utf8(&bytes).map_err(|error| location.refuse(format!("expected UTF-8: {error}")))?;
        let text = text.trim_start_matches('\u{FEFF}').trim();
        Ok((!text.is_empty()).then(|| (text.to_owned(), location)))
    }

    fn read(&self, start: u64, end: u64) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Where each line begins, and where the last one ends; no line is held.
fn offsets(mut file: impl BufRead) -> std::io::Result<Vec<u64>> {
    let (mut offsets, mut done) = (vec![0], 0);
    loop {
        let piece = file.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        let ends = piece.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        offsets.extend(ends.map(|(at, _)| done + at as u64 + 1));
        let length = piece.len();
        file.consume(length);
        done += length as u64;
    }
    if offsets.last() != Some(&done) {
        offsets.push(done);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_whatever_the_buffer_and_the_last_end() {
        for (text, expected) in [
            ("", &[0][..]),
            ("ab\n", &[0, 3]),
            ("ab\n\ncd", &[0, 3, 4, 6]),
            ("ab\r\ncd\n", &[0, 4, 7]),
            ("\n", &[0, 1]),
        ] {
            for capacity in 1..8 {
                assert_eq!(offsets(BufReader::with_capacity(capacity, text.as_bytes())).unwrap(), expected, "{text:?}");
            }
        }
    }
}
