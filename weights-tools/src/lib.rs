//! Inspect, verify and make Qwen3-Omni checkpoints: what the `weights-tools` program does, as a library.

pub mod init;
pub mod inspect;
pub mod verify;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
