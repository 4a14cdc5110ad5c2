use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use hound::{SampleFormat, WavSpec};
use omni_core::{Error, Result};

/// A sample between −1 and 1 as a 16-bit number; what lies outside is clamped.
pub(super) fn to_i16(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16
}

/// Bytes of the header before the samples.
pub(super) const HEADER: usize = 44;

/// The header of a 16-bit mono WAV of `samples` samples; `None` where their number is not known yet, which readers take as "to the
/// end".
pub(super) fn header(sample_rate: u32, samples: Option<usize>) -> [u8; HEADER] {
    let bytes = samples.and_then(|samples| u32::try_from(samples.checked_mul(2)?).ok());
    let whole = bytes.and_then(|bytes| bytes.checked_add(HEADER as u32 - 8)).unwrap_or(u32::MAX);
    let mut header = [0; HEADER];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        header[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(b"RIFF");
    put(&whole.to_le_bytes());
    put(b"WAVEfmt ");
    put(&16u32.to_le_bytes());
    // PCM, one channel.
    put(&[1, 0, 1, 0]);
    put(&sample_rate.to_le_bytes());
    put(&sample_rate.saturating_mul(2).to_le_bytes());
    // Bytes of a sample, bits of a sample.
    put(&[2, 0, 16, 0]);
    put(b"data");
    put(&bytes.unwrap_or(u32::MAX).to_le_bytes());
    header
}

/// Writes 16-bit mono WAV to anything that takes bytes, a pipe or a network connection for example, while the sound is being made.
/// The header comes first and says that the length is not known.
///
/// ```
/// let mut writer = qwen3_omni::WavWriter::new(Vec::new(), 24_000)?; // or a connection, or stdout
/// writer.write(&[0.0, 0.5, -0.5])?;
/// assert!(writer.finish()?.starts_with(b"RIFF"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct WavWriter<W: Write> {
    out: W,
}

impl<W: Write> WavWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// The errors of `out`.
    pub fn new(mut out: W, sample_rate: u32) -> io::Result<Self> {
        out.write_all(&header(sample_rate, None))?;
        Ok(Self { out })
    }

    /// Writes samples; values outside −1 to 1 are clamped.
    ///
    /// # Errors
    /// The errors of `out`.
    pub fn write(&mut self, samples: &[f32]) -> io::Result<()> {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| to_i16(*sample).to_le_bytes()).collect();
        self.out.write_all(&bytes)
    }

    /// Flushes and returns what was written to.
    ///
    /// # Errors
    /// The errors of `out`.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A 16-bit mono WAV file that appears under its name only when it is complete.
///
/// Samples go to a temporary file in the same directory; dropping without [`WavFile::finish`] removes it.
///
/// ```no_run
/// let mut file = qwen3_omni::WavFile::create("reply.wav".as_ref(), 24_000)?;
/// file.write(&[0.0; 2400])?; // piece by piece, as the sound is made
/// file.finish()?;
/// # Ok::<(), qwen3_omni::Error>(())
/// ```
pub struct WavFile {
    path: PathBuf,
    partial: PathBuf,
    writer: Option<hound::WavWriter<BufWriter<File>>>,
}

impl std::fmt::Debug for WavFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WavFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl WavFile {
    /// Creates the temporary file.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path if it cannot be written.
    pub fn create(path: &Path, sample_rate: u32) -> Result<Self> {
        // Following a link replaces its target, not the link; a device or directory is never replaced.
        let real = std::fs::canonicalize(path);
        let path = real.as_deref().unwrap_or(path);
        if path.exists() && !path.is_file() {
            return Err(Error::io(path, std::io::Error::other("this is no plain file, expected a file name")));
        }
        let name = path.file_name().ok_or_else(|| Error::io(path, std::io::Error::other("no file name")))?;
        // Two writers of the same path must not write into each other's file.
        static WRITERS: AtomicUsize = AtomicUsize::new(0);
        let writer = (std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed));
        let partial = path.with_file_name(format!(".{}.{}-{}.partial", name.to_string_lossy(), writer.0, writer.1));
        let file = File::create(&partial).map_err(|source| cannot_write(path, source))?;
        let spec = WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut wav = Self { path: path.to_owned(), partial, writer: None };
        wav.writer = Some(hound::WavWriter::new(BufWriter::new(file), spec).map_err(|error| wav.failed(error))?);
        Ok(wav)
    }

    /// Appends samples; values outside −1 to 1 are clamped.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn write(&mut self, samples: &[f32]) -> Result<()> {
        let writer = self.writer.as_mut().expect("open until finished");
        let result = samples.iter().try_for_each(|sample| writer.write_sample(to_i16(*sample)));
        result.map_err(|error| self.failed(error))
    }

    /// Completes the file and renames it to its final name.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path; nothing half-written is left.
    pub fn finish(mut self) -> Result<()> {
        let writer = self.writer.take().expect("open until finished");
        writer.finalize().map_err(|error| self.failed(error))?;
        std::fs::rename(&self.partial, &self.path).map_err(|source| Error::io(&self.path, source))
    }

    fn failed(&self, error: hound::Error) -> Error {
        let source = match error {
            hound::Error::IoError(source) => source,
            other => std::io::Error::other(other.to_string()),
        };
        Error::io(&self.path, source)
    }
}

/// Explains the system's "not found": it is the folder that is missing.
fn cannot_write(path: &Path, source: std::io::Error) -> Error {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
    match folder {
        Some(folder) => {
            let reason = format!("the folder {} does not exist, so this file cannot be written", folder.display());
            Error::io(path, std::io::Error::new(source.kind(), reason))
        }
        None => Error::io(path, source),
    }
}

impl Drop for WavFile {
    fn drop(&mut self) {
        self.writer = None;
        // After `finish` there is no file of this name.
        let _ = std::fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_file_leaves_nothing_and_an_old_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reply.wav");
        std::fs::write(&path, "old").unwrap();
        let mut file = WavFile::create(&path, 24_000).unwrap();
        file.write(&[0.1; 100]).unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_finished_file_holds_the_samples() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reply.wav");
        let mut file = WavFile::create(&path, 22_050).unwrap();
        file.write(&[0.0, 0.5, -2.0]).unwrap();
        file.finish().unwrap();
        let mut reader = hound::WavReader::open(&path).unwrap();
        let spec = WavSpec { channels: 1, sample_rate: 22_050, bits_per_sample: 16, sample_format: SampleFormat::Int };
        assert_eq!((reader.spec(), reader.duration()), (spec, 3));
        let samples: Vec<i16> = reader.samples().map(|s| s.unwrap()).collect();
        assert_eq!(samples, [0, 16384, -32767]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_stream_is_read_to_its_end_and_whole_bytes_are_a_file() {
        let samples = [0.0, 0.5, -2.0, 0.25];
        let mut writer = WavWriter::new(Vec::new(), 24_000).unwrap();
        samples.chunks(3).for_each(|piece| writer.write(piece).unwrap());
        let streamed = writer.finish().unwrap();
        let audio = super::super::Audio { samples: samples.to_vec(), sample_rate: 24_000 };
        let whole = audio.to_wav();
        assert_eq!(streamed[HEADER..], whole[HEADER..]);
        assert_eq!((streamed[4..8].to_vec(), streamed[40..44].to_vec()), (vec![0xff; 4], vec![0xff; 4]));
        let mut reader = hound::WavReader::new(whole.as_slice()).unwrap();
        assert_eq!((reader.spec().sample_rate, reader.spec().channels, reader.duration()), (24_000, 1, 4));
        assert_eq!(reader.samples().map(|sample| sample.unwrap()).collect::<Vec<i16>>(), audio.to_i16());
    }

    #[test]
    fn an_unwritable_path_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().join("absent/reply.wav"), directory.path().to_owned()] {
            let message = WavFile::create(&path, 24_000).err().unwrap().to_string();
            assert!(message.contains(&*path.to_string_lossy()), "{message}");
        }
    }
}
