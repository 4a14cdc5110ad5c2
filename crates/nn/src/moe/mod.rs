//! Mixture of experts: router, packed experts, and the block that joins them.

mod block;
mod experts;
mod router;

pub use block::{MoeBlock, MoeSpec};
pub(crate) use experts::expert_of;
pub use experts::{ExpertPath, Experts};
pub use router::{Router, Routing};
