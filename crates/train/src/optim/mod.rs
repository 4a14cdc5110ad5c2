//! AdamW with decoupled decay, its schedule, and the moving average of weights (the training specification's section 12).

mod adamw;
mod ema;
mod schedule;

pub use adamw::{AdamW, AdamWConfig};
pub use ema::Ema;
pub use schedule::{Schedule, ScheduleKind};
