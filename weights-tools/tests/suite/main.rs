//! Tests of the library and the program.
#![allow(clippy::unwrap_used)]

mod compare;
mod init;
mod other_packings;
mod program;
mod quantize;
mod verify;
mod writing;
