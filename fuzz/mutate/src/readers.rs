//! The readers, each with the inputs it is known to take.

use std::path::{Path, PathBuf};

use qwen3_omni::checkpoint::ConfigFile;
use qwen3_omni::media::audio::log_mel;
use qwen3_omni::media::image::{ImageOptions, patches};
use qwen3_omni::media::video::{VideoOptions, clip};
use qwen3_omni::{ChatTemplate, Component, OmniCheckpoint, OmniConfig, TemplateOptions, Tokenizer};
use qwen3_omni_testkit::fixtures;
use serde_json::{Value, json};

/// A reader of files.
pub struct Reader {
    pub name: &'static str,
    /// Whole inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads a file; whether it was taken.
    pub read: fn(&Path) -> bool,
}

pub const READERS: [Reader; 9] = [
    Reader { name: "shard", seeds: || vec![small_shard()], read: read_shard },
    Reader {
        name: "index",
        seeds: || vec![fixture("tiny/model.safetensors.index.json")],
        read: |path| in_tiny(path, "model.safetensors.index.json"),
    },
    Reader {
        name: "config",
        seeds: || vec![fixture("tiny/config.json"), fixture("tiny/alt/config.transformers5.json")],
        read: read_config,
    },
    Reader { name: "template", seeds: || vec![template()], read: read_template },
    Reader {
        name: "tokenizer",
        seeds: || vec![fixture("tiny/alt/tokenizer.json")],
        read: |path| read_tokenizer(path, "tokenizer.json"),
    },
    Reader {
        name: "tokenizer_config",
        seeds: || vec![fixture("tiny/tokenizer_config.json")],
        read: |path| read_tokenizer(path, "tokenizer_config.json"),
    },
    Reader {
        name: "sound",
        seeds: || media(&["wav", "flac", "mp3", "ogg", "m4a", "opus", "webm", "caf", "aiff", "au", "mp2"]),
        read: |path| log_mel(&[path.into()]).is_ok(),
    },
    Reader {
        name: "picture",
        seeds: || media(&["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "heic", "avif"]),
        read: |path| patches(&path.into(), &ImageOptions::default()).is_ok(),
    },
    Reader {
        name: "video",
        seeds: || media(&["mp4", "mov"]),
        read: |path| clip(&path.into(), &VideoOptions::default()).is_ok(),
    },
];

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).expect("the fixture is there")
}

/// The files of the tests with one of these endings.
fn media(endings: &[&str]) -> Vec<Vec<u8>> {
    let folders = ["media", "media/sound"].map(|folder| fixtures().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("the folder is there"));
    let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.sort();
    let known =
        |path: &PathBuf| path.extension().and_then(|end| end.to_str()).is_some_and(|end| endings.contains(&end));
    paths.iter().filter(|path| known(path)).filter_map(|path| std::fs::read(path).ok()).collect()
}

/// The header of a shard of the small checkpoint with its first tensors' bytes.
fn small_shard() -> Vec<u8> {
    fixture("tiny/model-00002-of-00003.safetensors")
}

fn template() -> Vec<u8> {
    let json: Value = serde_json::from_slice(&fixture("tiny/chat_template.json")).expect("it is JSON");
    json["chat_template"].as_str().unwrap_or_default().as_bytes().to_vec()
}

/// A copy of the small checkpoint in which a file is another.
fn tiny_with(path: &Path, name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    for file in std::fs::read_dir(fixtures().join("tiny")).expect("the folder is there").filter_map(Result::ok) {
        if file.path().is_file() && file.file_name() != name {
            std::os::unix::fs::symlink(
                file.path().canonicalize().expect("it is there"),
                directory.path().join(file.file_name()),
            )
            .expect("a link can be made");
        }
    }
    std::fs::copy(path, directory.path().join(name)).expect("it can be written to");
    directory
}

fn in_tiny(path: &Path, name: &str) -> bool {
    let directory = tiny_with(path, name);
    OmniCheckpoint::open(directory.path()).is_ok_and(|checkpoint| checkpoint.check(&Component::ALL).is_ok())
}

fn read_shard(path: &Path) -> bool {
    in_tiny(path, "model-00002-of-00003.safetensors")
}

fn read_config(path: &Path) -> bool {
    let config = ConfigFile::read(path).and_then(|file| OmniConfig::of(&file));
    config.is_ok_and(|config| config.manifest().is_ok())
}

fn read_template(path: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let Ok(template) = ChatTemplate::new(text) else { return false };
    let messages = json!([
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "what is said"}]},
        {"role": "assistant", "content": "hello", "tool_calls": [{"name": "f", "arguments": {"a": 1.5}}]},
        {"role": "tool", "content": "x"},
    ]);
    let tools = [json!({"type": "function", "function": {"name": "f"}})];
    template
        .render(&messages, &TemplateOptions::default().tools(tools).add_generation_prompt(true).enable_thinking(false))
        .is_ok()
}

fn read_tokenizer(path: &Path, name: &str) -> bool {
    let directory = tiny_with(path, name);
    let Ok(tokenizer) = Tokenizer::from_directory(directory.path()) else { return false };
    let text = "Hello, w\u{f6}rld! 123\n <|im_start|>user \u{4e00}\u{1f600} don't";
    tokenizer.encode(text).is_ok_and(|ids| !tokenizer.decode(&ids, true).is_empty())
}
