//! Inspect, verify, make, convert, quantise and compare Qwen3-Omni checkpoints: what the `weights-tools` program does, as a library.

pub mod commands;
pub mod compare;
pub mod convert;
mod foreign;
pub mod init;
pub mod inspect;
mod new_file;
pub mod quantize;
mod random;
pub mod released;
mod shards;
mod source;
pub mod verify;

pub use shards::Progress;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
