//! The heads of causal attention, as [`Engine::causal_attention`](crate::Engine::causal_attention) takes them.

use crate::RmsNorm;

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// Query heads `H`.
    pub heads: usize,
    /// Key/value heads `K`; each serves `H / K` query heads.
    pub kv_heads: usize,
    /// Width of a head `Dh`.
    pub head_dim: usize,
    /// Number of keys a query sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// The norms of each query and each key head.
    pub norms: [Option<&'a RmsNorm>; 2],
}
