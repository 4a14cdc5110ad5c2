//! Mixture of experts: router, experts, and the block that joins them.

mod block;
mod experts;
mod router;

pub use block::{MoeBlock, MoeSpec};
pub use experts::{ExpertPath, Experts};
pub(crate) use experts::{host_ids, host_ids_of};
pub use router::{DeviceRouting, Router, Routing};
