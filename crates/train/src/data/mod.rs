//! Training data as people have it: JSON lines with conversations, in the standard form of ms-swift or with typed parts as in
//! Hugging Face's templates.
//!
//! [`Line`] is one line, understood; [`SampleReader`] makes it ids, labels and decoded media. A [`DataSource`] is a set of files, and
//! [`Batches`] mixes, shuffles and groups the lines of several, ahead of their use.
//!
//! ```no_run
//! use qwen3_omni_train::data::{BatchOptions, Batches, DataSource, SampleOptions, SampleReader};
//!
//! # fn main() -> qwen3_omni_train::Result<()> {
//! let reader = SampleReader::open("/models/Qwen3-Omni-30B-A3B-Instruct", SampleOptions::default())?;
//! let talks = DataSource::open("talks", ["talks-1.jsonl", "talks-2.jsonl"])?.with_share(3.0);
//! let speech = DataSource::open("speech", ["speech.jsonl"])?;
//! let mut batches = Batches::start(vec![talks, speech], reader, BatchOptions::default(), None)?;
//! while let Some(batch) = batches.next().transpose()? {
//!     println!("{} tokens, {} of them learned", batch.tokens(), batch.learned());
//!     // Stored with a checkpoint, it goes on with the next batch.
//!     let state = batches.state();
//! }
//! # Ok(())
//! # }
//! ```

mod batch;
mod batches;
mod codes;
mod cursor;
mod encode;
mod entries;
mod fields;
mod labels;
mod line;
mod location;
mod messages;
mod options;
mod order;
mod rebase;
mod recognition;
mod recording;
mod sample;
mod segments;
mod source;
mod state;
mod transcript;
mod window;

pub use batch::{Batch, BatchItem};
pub use batches::Batches;
pub use codes::{read_codes, write_codes};
pub use encode::{EncodeFn, EncodedLines, LineEncoder};
pub use labels::{LabelIds, conversation_labels, document_labels};
pub use line::{Line, SpeechTarget};
pub use location::Location;
pub use options::BatchOptions;
pub use recording::{RecordingLine, read_recording};
pub(crate) use sample::split_reasoning;
pub use sample::{ReadSample, SampleOptions, SampleReader};
pub use segments::{Segment, SegmentOptions, Segments};
pub use source::DataSource;
pub use state::{BatchesState, SourceState};
pub(crate) use window::cut;
