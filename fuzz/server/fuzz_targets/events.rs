#![no_main]
//! Any text as the frames of a realtime session, and of one that reads text aloud, one a line.

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use qwen3_omni::Omni;
use qwen3_omni_server::{Config, Server, parsers};
use tokio::runtime::Runtime;

static SERVER: LazyLock<(Server, Runtime)> = LazyLock::new(|| {
    let omni = Omni::builder(qwen3_omni_testkit::nano()).load().expect("nano can be loaded");
    (Server::new(omni, Config::default()), Runtime::new().expect("threads can be had"))
});

fuzz_target!(|frames: &str| {
    let (server, runtime) = &*SERVER;
    let _within = runtime.enter();
    parsers::events(server, frames);
    parsers::speech_events(server, frames);
});
