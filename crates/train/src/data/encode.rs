//! Lines whose recordings become codes.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::codes::write_codes;
use super::line::SpeechTarget;
use super::location::Location;
use super::rebase::rebase;
use super::recording::{RecordingLine, read_recording};
use super::source::DataSource;
use crate::trainer::io;
use crate::{Error, Result};

/// What was made of a file of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLines {
    /// The new file.
    pub path: PathBuf,
    /// Lines that were written.
    pub lines: u64,
    /// Recordings that were encoded.
    pub recordings: u64,
    /// Lines that were left out, because they are not as expected.
    pub bad: u64,
}

/// Turns samples of one channel into codes `[F, Q]`.
pub type EncodeFn<'a> = dyn Fn(&[f32]) -> Result<Vec<Vec<u32>>> + 'a;

/// Encodes the recordings of lines, `speech` and `rejected_speech`.
pub struct LineEncoder<'a> {
    /// Samples per second of what `encode` takes.
    pub sample_rate: u32,
    /// The encoder.
    pub encode: &'a EncodeFn<'a>,
    /// Whether the first bad line ends the work; otherwise it is left out and passed to `told`.
    pub strict: bool,
    /// Told of every bad line.
    pub told: &'a dyn Fn(&Error),
}

impl std::fmt::Debug for LineEncoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineEncoder").field("sample_rate", &self.sample_rate).finish_non_exhaustive()
    }
}

/// Keys of recordings, and those of the codes that take their place.
const KEYS: [(&str, &str); 2] = [("speech", "codes"), ("rejected_speech", "rejected_codes")];

impl LineEncoder<'_> {
    /// Encodes the lines of a file: writes `OUT/NAME.jsonl`, in which codes stand in place of recordings, and `OUT/NAME/`, the codes.
    /// The file appears under its name when it is complete.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] naming a file; [`Error::Option`] if the new file would replace the old one; if the encoder is strict, the
    /// error of the first bad line; and those of the encoder.
    pub fn file(&self, data: &Path, out: &Path) -> Result<EncodedLines> {
        let (source, target) = (DataSource::open("lines", [data])?, Target::new(data, out)?);
        let mut encoded = EncodedLines { path: target.path.clone(), lines: 0, recordings: 0, bad: 0 };
        let partial = target.path.with_extension("jsonl.partial");
        let mut file = BufWriter::new(fs::File::create(&partial).map_err(io(&partial))?);
        for index in 0..source.lines() {
            match self.line(&source, index, &target) {
                Ok(None) => {}
                Ok(Some((line, recordings))) => {
                    (encoded.lines, encoded.recordings) = (encoded.lines + 1, encoded.recordings + recordings);
                    writeln!(file, "{}", Value::Object(line)).map_err(io(&partial))?;
                }
                Err(error @ Error::Data { .. }) if !self.strict => {
                    encoded.bad += 1;
                    (self.told)(&error);
                }
                Err(error) => return Err(error),
            }
        }
        file.into_inner().map_err(|error| error.into_error()).and_then(|file| file.sync_all()).map_err(io(&partial))?;
        fs::rename(&partial, &encoded.path).map_err(io(&encoded.path))?;
        Ok(encoded)
    }

    /// A line with codes in place of recordings, and how many there were; `None` for an empty one.
    fn line(&self, source: &DataSource, index: u32, target: &Target) -> Result<Option<(Map<String, Value>, u64)>> {
        let Some((text, location)) = source.written(index)? else { return Ok(None) };
        let RecordingLine { speech, rejected_speech, mut written, .. } = RecordingLine::parse(&text, &location)?;
        if let Some(folder) = &target.rebased {
            rebase(&mut written, folder);
        }
        let codes =
            [self.codes(speech, "", &location, target)?, self.codes(rejected_speech, "-rejected", &location, target)?];
        let count = codes.iter().flatten().count() as u64;
        let with_codes = written.into_iter().map(|(key, value)| {
            let place = KEYS.iter().position(|(wave, _)| *wave == key);
            match place.and_then(|place| Some((KEYS[place].1, codes[place].clone()?))) {
                Some((key, name)) => (key.to_owned(), Value::String(name)),
                None => (key, value),
            }
        });
        Ok(Some((with_codes.collect(), count)))
    }

    /// Encodes a recording; returns the path of the codes from the new file on.
    fn codes(
        &self,
        speech: Option<SpeechTarget>,
        suffix: &str,
        location: &Location,
        target: &Target,
    ) -> Result<Option<String>> {
        let Some(SpeechTarget::Wave(wave)) = speech else { return Ok(None) };
        let samples = read_recording(&wave, self.sample_rate, location)?;
        let name = format!("{}/{:06}{suffix}.safetensors", target.stem, location.line);
        write_codes(&target.out.join(&name), &(self.encode)(&samples)?)?;
        Ok(Some(name))
    }
}

/// Where the lines of a file go.
struct Target {
    out: PathBuf,
    /// Name of the file and of the folder of codes.
    stem: String,
    path: PathBuf,
    /// The folder that relative paths of the lines begin at, if it is not the one that they are written to.
    rebased: Option<PathBuf>,
}

impl Target {
    /// Makes the folders for the lines of a file.
    fn new(data: &Path, out: &Path) -> Result<Self> {
        let stem = data.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        fs::create_dir_all(out.join(&stem)).map_err(io(out))?;
        let [data, folder] = [data, out].map(|path| fs::canonicalize(path).map_err(io(path)));
        let (data, folder) = (data?, folder?);
        let path = out.join(format!("{stem}.jsonl"));
        if fs::canonicalize(&path).is_ok_and(|path| path == data) {
            let reason = format!("{}: the lines are there, expected another folder", out.display());
            return Err(Error::Option { name: "out", reason });
        }
        let rebased = data.parent().filter(|of_data| *of_data != folder).map(Path::to_owned);
        Ok(Self { out: out.to_owned(), stem, path, rebased })
    }
}
