//! The models of the stages: the crates' own modules, joined where a stage trains several of them together.

mod aut;
mod codec;
mod moved;
mod talker;
mod thinker;

pub use aut::{AutModel, EncodedSounds, Transcript};
pub use aut_encoder::{AutDecoder, AutDecoderConfig};
pub use codec::{CODEC_CONFIG, CODEC_WEIGHTS, CodecConfig, CodecEncoder, CodecModel, WaveEncoder};
pub(crate) use codec::{Choice, CodecMel, Discriminator, Judged, Learning, ResidualQuantizer, StoredCodec};
pub(crate) use moved::moved;
pub(crate) use talker::end_of_turn;
pub use talker::{SpokenAnswer, TalkerForward, TalkerModel, split_answer};
pub use thinker::{Sample, SampleMedia, ThinkerForward, ThinkerModel};
