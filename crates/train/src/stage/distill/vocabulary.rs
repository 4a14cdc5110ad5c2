use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use moe_thinker::ThinkerConfig;
use qwen3_omni::Tokenizer;

use crate::{Error, Result};

/// What the ids of a checkpoint mean.
pub(super) struct Vocabulary {
    directory: PathBuf,
    tokenizer: Tokenizer,
    /// Logits of a row: ids, those without a token included.
    pub(super) width: usize,
}

impl Vocabulary {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let config: ThinkerConfig = Checkpoint::open(directory)?.config().section()?;
        let tokenizer = Tokenizer::from_directory(directory)?;
        Ok(Self { directory: directory.to_owned(), tokenizer, width: config.text.vocab_size })
    }

    /// Checksum of all tokens.
    pub(super) fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for id in 0..self.tokenizer.size() {
            checksum.update(self.tokenizer.token(id).unwrap_or_default().as_bytes());
            checksum.update(&[0]);
        }
        checksum.finalize()
    }

    /// Makes the error of a teacher with another vocabulary.
    pub(super) fn refuse(&self, teacher: &Path, reason: &str) -> Error {
        let (teacher, student) = (teacher.display(), self.directory.display());
        let reason = format!("{teacher}: {reason}, expected the vocabulary of the student {student}");
        Error::Option { name: "teacher", reason }
    }
}

/// Refuses a teacher for whom an id is another token than for the student.
pub(super) fn refuse_other(student: &Vocabulary, teacher: &Vocabulary) -> Result<()> {
    let other = |reason: String| Err(student.refuse(&teacher.directory, &reason));
    let size = student.tokenizer.size().max(teacher.tokenizer.size());
    let named = |token: Option<String>| token.map_or("no token".into(), |token| format!("`{token}`"));
    for id in 0..size {
        let [ours, theirs] = [student, teacher].map(|side| side.tokenizer.token(id));
        if ours != theirs {
            return other(format!("id {id} is {} and not {}", named(theirs), named(ours)));
        }
    }
    match student.width == teacher.width {
        true => Ok(()),
        false => other(format!("{} logits a row and not {}", teacher.width, student.width)),
    }
}
