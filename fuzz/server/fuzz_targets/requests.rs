#![no_main]
//! Any bytes as the body of a request for a chat completion and for speech.

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qwen3_omni::Omni;
use qwen3_omni_server::{Config, Server, parsers};

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let omni = Omni::builder(qwen3_omni_testkit::nano()).load().expect("nano can be loaded");
    Server::new(omni, Config::default())
});

fuzz_target!(|bytes: &[u8]| {
    for read in [parsers::chat(&SERVER, bytes), parsers::speech(&SERVER, bytes)] {
        assert!(matches!(read, Ok(()) | Err(400 | 404)), "{read:?}");
    }
});
