//! Logits that a teacher gave once, in a safetensors file: for each line `NAME.jsonl:LINE` the tensors `.ids` and `.logits`,
//! `[rows, k]`, and the checksum of what was read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::lessons::{Lessons, lessons};
use super::teacher::{Teacher, TeacherLogits};
use super::vocabulary::Vocabulary;
use crate::Result;
use crate::data::{Batch, Location};
use crate::model::Sample;
use crate::trainer::{damaged, io, unreadable};

/// Where the checksum of the teacher's vocabulary stands in the file's metadata.
const VOCABULARY: &str = "vocabulary";
/// Bytes of an id, a logit and a checksum.
const WIDTH: usize = 4;

/// Stores the `k` best logits of every learned token of some lines, with the names of their files and their numbers; `directory` is the
/// teacher's, and `device` where it computes. `told` is called after each batch with the number of lines stored so far. Returns their
/// number.
///
/// # Errors
/// The errors of the lines and the teacher, [`crate::Error::Option`] for a `k` beyond the vocabulary, [`crate::Error::Data`] for lines of
/// two files of one name, and [`omni_core::Error::Io`].
pub fn teach(
    (teacher, directory): (&dyn Teacher, &Path),
    batches: impl IntoIterator<Item = Result<Batch>>,
    device: &Device,
    k: usize,
    out: &Path,
    told: &mut dyn FnMut(usize),
) -> Result<usize> {
    let mut writer = Writer::create(out)?;
    for batch in batches {
        let lessons = lessons(batch?, device);
        writer.add(&lessons, teacher.logits(&lessons)?.best(k)?)?;
        told(writer.lines);
    }
    let vocabulary = Vocabulary::open(directory)?.checksum();
    writer.finish(vocabulary)
}

/// The name of a line in the file.
fn name(place: &Location) -> String {
    let file = place.path.file_name().unwrap_or_default().to_string_lossy();
    format!("{file}:{}", place.line)
}

/// Checksum of a conversation's tokens and of which are learned.
fn checksum(sample: &Sample) -> u32 {
    let mut checksum = crc32fast::Hasher::new();
    sample.ids.iter().for_each(|id| checksum.update(&id.to_le_bytes()));
    sample.labels.iter().for_each(|label| checksum.update(&[u8::from(label.is_some())]));
    checksum.finalize()
}

/// Collects tensors in a file of their own until all sizes, which the header begins with, are known.
struct Writer {
    out: PathBuf,
    spool: PathBuf,
    data: BufWriter<File>,
    header: BTreeMap<String, serde_json::Value>,
    bytes: usize,
    lines: usize,
}

impl Writer {
    fn create(out: &Path) -> Result<Self> {
        let spool = with_suffix(out, ".data");
        let data = BufWriter::new(File::create(&spool).map_err(io(&spool))?);
        Ok(Self { out: out.to_owned(), spool, data, header: BTreeMap::new(), bytes: 0, lines: 0 })
    }

    /// Adds the logits of a batch.
    fn add(&mut self, lessons: &Lessons, (ids, logits): (Tensor<2, Int>, Tensor<2>)) -> Result<()> {
        let [_, k] = logits.dims();
        let ids: Vec<u32> = ids.into_data().iter::<i64>().map(|id| id as u32).collect();
        let logits = nn::to_f32_vec(&logits.cast(DType::F32));
        let mut start = 0;
        for (sample, place) in lessons.samples.iter().zip(&lessons.places) {
            let rows = sample.learned();
            let range = start * k..(start + rows) * k;
            start += rows;
            let line = name(place);
            if self.header.contains_key(&format!("{line}.ids")) {
                return Err(place.refuse(format!("`{line}` is stored already, expected files of different names")));
            }
            let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
            let floats: Vec<u8> = logits[range.clone()].iter().flat_map(|value| value.to_le_bytes()).collect();
            self.put(format!("{line}.ids"), Dtype::U32, &[rows, k], &words(&ids[range]))?;
            self.put(format!("{line}.logits"), Dtype::F32, &[rows, k], &floats)?;
            self.put(format!("{line}.checksum"), Dtype::U32, &[1], &words(&[checksum(sample)]))?;
            self.lines += 1;
        }
        Ok(())
    }

    fn put(&mut self, name: String, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<()> {
        self.data.write_all(bytes).map_err(io(&self.spool))?;
        let end = self.bytes + bytes.len();
        let info = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [self.bytes, end]});
        self.header.insert(name, info);
        self.bytes = end;
        Ok(())
    }

    /// Puts header and data together; the file appears under its name when it is whole.
    fn finish(mut self, vocabulary: u32) -> Result<usize> {
        self.data.flush().map_err(io(&self.spool))?;
        self.header.insert("__metadata__".into(), serde_json::json!({VOCABULARY: vocabulary.to_string()}));
        let mut header = serde_json::Value::from_iter(std::mem::take(&mut self.header)).to_string();
        // The data begin at a multiple of eight bytes.
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let partial = with_suffix(&self.out, ".partial");
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            std::io::copy(&mut File::open(&self.spool)?, &mut file)?;
            file.sync_all()?;
            std::fs::rename(&partial, &self.out)
        };
        write().map_err(io(&self.out))?;
        Ok(self.lines)
    }
}

impl Drop for Writer {
    /// Removes the collected tensors, whether they were put together or not.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.spool);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A teacher whose logits were stored by [`teach`]; each is read when it is needed.
#[derive(Debug)]
pub struct StoredTeacher {
    path: PathBuf,
    header: Metadata,
    /// Where the data begin.
    start: u64,
    /// Logits of a row of the student.
    vocabulary: usize,
    device: Device,
}

impl StoredTeacher {
    /// Opens a file of stored logits for a student; `device` is one without gradients.
    ///
    /// # Errors
    /// [`omni_core::Error::Io`] or [`omni_core::Error::Weights`] naming the file, and [`crate::Error::Option`] if its teacher had another
    /// vocabulary than the student.
    pub fn open(path: &Path, student: &Path, device: &Device) -> Result<Self> {
        let (header, start) = read_header(path)?;
        let vocabulary = Vocabulary::open(student)?;
        let stored = header.metadata().as_ref().and_then(|metadata| metadata.get(VOCABULARY));
        if *stored.ok_or_else(|| damaged(path, "it was not written by `teach`"))? != vocabulary.checksum().to_string() {
            return Err(vocabulary.refuse(path, "its teacher had another vocabulary"));
        }
        let vocabulary = vocabulary.width;
        Ok(Self { path: path.to_owned(), header, start, vocabulary, device: device.clone() })
    }

    /// Shape and words of a line's tensor.
    fn read(
        &self,
        file: &mut File,
        place: &Location,
        tensor: &str,
        dtype: Dtype,
    ) -> Result<(Vec<usize>, Vec<[u8; 4]>)> {
        let name = format!("{}.{tensor}", name(place));
        let stored = self.header.info(&name).ok_or_else(|| {
            place.refuse(format!("{}: no `{name}`, expected logits of every line", self.path.display()))
        })?;
        let (begin, end) = stored.data_offsets;
        let bytes = stored.shape.iter().try_fold(WIDTH, |bytes, size| bytes.checked_mul(*size));
        let lies_within = end <= self.header.data_len() && end.checked_sub(begin) == bytes;
        let Some(bytes) = bytes.filter(|_| stored.dtype == dtype && lies_within) else {
            let (found, shape) = (stored.dtype, &stored.shape);
            return Err(damaged(&self.path, format!("`{name}` is {found:?} {shape:?}, expected {dtype:?}")));
        };
        let mut words = vec![[0; WIDTH]; bytes / WIDTH];
        file.seek(SeekFrom::Start(self.start + begin as u64))
            .and_then(|_| file.read_exact(words.as_flattened_mut()))
            .map_err(io(&self.path))?;
        Ok((stored.shape.clone(), words))
    }

    /// Ids and logits of a line, and how many of a row.
    fn line(&self, file: &mut File, sample: &Sample, place: &Location) -> Result<(Vec<i64>, Vec<f32>, usize)> {
        let (_, stored) = self.read(file, place, "checksum", Dtype::U32)?;
        if stored.iter().map(|word| u32::from_le_bytes(*word)).ne([checksum(sample)]) {
            let reason = "it is not what the teacher read: expected the same text, tokenizer and chat template";
            return Err(place.refuse(format!("{}: {reason}", self.path.display())));
        }
        let ((shape, ids), (other, logits)) =
            (self.read(file, place, "ids", Dtype::U32)?, self.read(file, place, "logits", Dtype::F32)?);
        let ids: Vec<i64> = ids.into_iter().map(|word| i64::from(u32::from_le_bytes(word))).collect();
        let fits = |k: usize| k > 0 && shape == other && shape == [sample.learned(), k];
        match shape.last() {
            Some(k) if fits(*k) && ids.iter().all(|id| (*id as usize) < self.vocabulary) => {
                Ok((ids, logits.into_iter().map(f32::from_le_bytes).collect(), *k))
            }
            _ => Err(damaged(&self.path, format!("ids {shape:?} and logits {other:?} of `{}`", name(place)))),
        }
    }
}

impl Teacher for StoredTeacher {
    fn logits(&self, lessons: &Lessons) -> Result<TeacherLogits> {
        let mut file = File::open(&self.path).map_err(io(&self.path))?;
        let (mut ids, mut logits, mut best) = (Vec::new(), Vec::new(), None);
        for (sample, place) in lessons.samples.iter().zip(&lessons.places) {
            let (of_line, values, k) = self.line(&mut file, sample, place)?;
            if best.replace(k).is_some_and(|before| before != k) {
                return Err(damaged(&self.path, "its lines have different numbers of logits"));
            }
            ids.extend(of_line);
            logits.extend(values);
        }
        let k = best.unwrap_or(1);
        let shape = [ids.len() / k, k];
        Ok(TeacherLogits {
            logits: Tensor::from_data(TensorData::new(logits, shape), &self.device),
            ids: Some(Tensor::from_data(TensorData::new(ids, shape), &self.device)),
        })
    }

    fn knows_new_answers(&self) -> bool {
        false
    }
}

/// The header of a safetensors file, and where its data begin.
fn read_header(path: &Path) -> Result<(Metadata, u64)> {
    let mut file = File::open(path).map_err(io(path))?;
    let size = file.metadata().map_err(io(path))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io(path))?;
    let length = u64::from_le_bytes(length);
    let start = length.checked_add(8).filter(|start| *start <= size);
    let start = start.ok_or_else(|| damaged(path, "its header is longer than the file"))?;
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(io(path))?;
    let header: Metadata = serde_json::from_slice(&json).map_err(|error| unreadable(path, error))?;
    match header.data_len() as u64 == size - start {
        true => Ok((header, start)),
        false => Err(damaged(path, "it is cut short or has more than its header lists")),
    }
}
