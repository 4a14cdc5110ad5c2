//! The world: its words, what is right in it, and what training never meets.

pub mod draw;
pub mod held;
pub mod sentences;
pub mod sums;
pub mod topic;
pub mod words;
