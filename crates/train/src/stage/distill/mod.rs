//! Strong-to-weak distillation: the thinker learns to predict every token of an answer as a teacher does, on given answers or on its own.

mod feed;
mod lessons;
mod objective;
mod settings;
mod stored;
mod teacher;
mod vocabulary;

pub use feed::OwnAnswers;
pub use lessons::{Lessons, lessons};
pub use objective::Distilling;
pub use settings::{DistillSettings, OnPolicySettings};
pub use stored::{StoredTeacher, teach};
pub use teacher::{CheckpointTeacher, Teacher, TeacherLogits};
