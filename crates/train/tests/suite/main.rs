//! Tests of training, through the library and through the program.
#![allow(clippy::unwrap_used)]

mod aut;
mod codec;
mod data;
mod devices;
mod golden;
mod program;
mod stages;
mod trainer;
