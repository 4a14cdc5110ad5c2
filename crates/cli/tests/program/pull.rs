//! `pull`, from a hub on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{json, path, program, refused, text};

/// The name of the repository, and its commit.
const REPOSITORY: &str = "someone/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a hub answers when it is first asked for a file.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Good,
    /// It breaks off in the middle of the shard.
    Breaks,
    /// It stops in the middle of the shard and never ends.
    Stalls,
    /// It gives checksums, and one byte of this file is another.
    Corrupts(&'static str),
}

/// Serves the small checkpoint as a hub does. Stays until the test ends.
struct Hub {
    address: String,
    /// File and first byte of every request for contents.
    asked: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Hub {
    fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || serve(stream, manners, &seen));
            }
        });
        Self { address, asked }
    }

    /// First bytes of the requests for a file.
    fn starts(&self, name: &str) -> Vec<u64> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(file, _)| file == name).map(|(_, start)| *start).collect()
    }
}

/// A file in Git LFS, and one in git itself.
const SHARD: &str = "model-00001-of-00003.safetensors";
const SMALL: &str = "merges.txt";

fn serve(mut stream: TcpStream, manners: Manners, asked: &Mutex<Vec<(String, u64)>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let address = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    if address.starts_with("/api/") {
        let names = std::fs::read_dir(testkit::tiny()).unwrap().map(|entry| entry.unwrap());
        let names = names.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.push("demo.mp4".into());
        let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
        let found = address == format!("/api/models/{REPOSITORY}/revision/main");
        let (code, body) = match found {
            true => ("200 OK", serde_json::json!({"siblings": siblings, "sha": COMMIT}).to_string()),
            false => ("404 Not Found", "{}".to_owned()),
        };
        let head = format!("HTTP/1.1 {code}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        return stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok();
    }
    let name = address.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/"))?.to_owned();
    let bytes = std::fs::read(testkit::tiny().join(&name)).ok()?;
    let range = headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned))?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.parse::<usize>().ok()?, end.parse().unwrap_or(bytes.len() - 1));
    let tags = tags(&name, &bytes, manners);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{end}/{}\r\n{tags}\
         X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        end + 1 - start,
        bytes.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    // One byte is asked for to learn the length.
    let mut is_first = false;
    if (start, end) != (0, 0) {
        let mut asked = asked.lock().unwrap();
        is_first = asked.iter().all(|(file, _)| *file != name);
        asked.push((name.clone(), start as u64));
    }
    if is_first && matches!(manners, Manners::Corrupts(wrong) if wrong == name) {
        let mut bytes = bytes;
        bytes[end / 2] ^= 1;
        return stream.write_all(&bytes[start..=end]).ok();
    }
    if is_first && name == SHARD && matches!(manners, Manners::Breaks | Manners::Stalls) {
        stream.write_all(&bytes[..bytes.len() / 2]).ok()?;
        if manners == Manners::Stalls {
            thread::sleep(Duration::from_secs(600));
        }
        return None;
    }
    stream.write_all(&bytes[start..=end]).ok()
}

/// The headers that name a content: a hub's own, or those of another server, which say nothing about the content.
fn tags(name: &str, bytes: &[u8], manners: Manners) -> String {
    let digits = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if !matches!(manners, Manners::Corrupts(_)) {
        return format!("ETag: \"{name}-etag\"\r\n");
    }
    if name.ends_with(".safetensors") {
        let sha256 = digits(&Sha256::digest(bytes));
        return format!("ETag: \"storage\"\r\nX-Linked-ETag: \"{sha256}\"\r\n");
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    format!("ETag: \"{}\"\r\n", digits(&Sha1::digest(&blob)))
}

/// `pull` of the repository into a cache of its own.
fn pull(hub: &Hub, home: &Path, more: &[&str]) -> std::process::Command {
    let arguments = [&["pull", REPOSITORY, "--endpoint", &hub.address], more].concat();
    let mut command = program(&arguments);
    command.env("HF_HOME", home.join("hub")).env("XDG_CACHE_HOME", home.join("cache"));
    command
}

/// Whether a directory holds the checkpoint and nothing else.
fn is_whole(directory: &Path) -> bool {
    let found = json(&["inspect", &path(directory), "--json"]);
    let shard = std::fs::read(directory.join(SHARD)).unwrap() == std::fs::read(testkit::tiny().join(SHARD)).unwrap();
    shard && found["odd"].as_array().unwrap().is_empty() && !directory.join("demo.mp4").exists()
}

#[test]
fn a_repository_is_fetched_once_into_the_cache_even_over_a_bad_line() {
    let (home, hub) = (tempfile::tempdir().unwrap(), Hub::start(Manners::Breaks));
    let output = pull(&hub, home.path(), &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let directory = text(&output.stdout).trim().to_owned();
    assert!(is_whole(Path::new(&directory)), "{directory}");
    let starts = hub.starts(SHARD);
    assert!(starts.len() == 2 && starts[0] == 0 && starts[1] > 0, "{starts:?}");
    let again = pull(&hub, home.path(), &[]).output().unwrap();
    assert_eq!(text(&again.stdout).trim(), directory);
    assert_eq!(hub.starts(SHARD), starts, "it was fetched again");
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let (home, hub) = (tempfile::tempdir().unwrap(), Hub::start(Manners::Stalls));
    let to = home.path().join("model");
    let mut child = pull(&hub, home.path(), &["--to", &path(&to)]).spawn().unwrap();
    let (begun, half) = (Instant::now(), std::fs::metadata(testkit::tiny().join(SHARD)).unwrap().len() / 2);
    let blobs = to.join(".pull/models--someone--tiny/blobs");
    let part = || blobs.join(SHARD).with_extension("part").metadata();
    while part().map_or(0, |part| part.len()) < half {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing was fetched");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = pull(&hub, home.path(), &["--to", &path(&to)]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!((hub.starts(SHARD), text(&output.stdout).trim()), (vec![0, half], &*path(&to)));
    assert!(is_whole(&to) && !to.join(".pull").exists());
    // Other files are left alone.
    let output = pull(&hub, home.path(), &["--to", &path(home.path())]).output().unwrap();
    assert!(text(&output.stderr).contains("expected a new or empty directory"), "{}", text(&output.stderr));
}

#[test]
fn a_corrupted_file_is_named_removed_and_fetched_anew() {
    for (name, checksum) in [(SHARD, "SHA-256"), (SMALL, "SHA-1")] {
        for is_cached in [true, false] {
            let (home, hub) = (tempfile::tempdir().unwrap(), Hub::start(Manners::Corrupts(name)));
            let to = path(&home.path().join("model"));
            let more: &[&str] = if is_cached { &[] } else { &["--to", &to] };
            let failed = pull(&hub, home.path(), more).output().unwrap();
            let error = text(&failed.stderr).lines().last().unwrap_or_default().to_owned();
            assert_eq!(failed.status.code(), Some(1), "{error}");
            assert!(error.contains(name) && error.contains("corrupted") && error.contains(checksum), "{error}");
            let output = pull(&hub, home.path(), more).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            let directory = PathBuf::from(text(&output.stdout).trim());
            assert_eq!(hub.starts(name), [0, 0]);
            let right = std::fs::read(testkit::tiny().join(name)).unwrap();
            assert!(is_whole(&directory) && std::fs::read(directory.join(name)).unwrap() == right);
        }
    }
}

#[test]
fn what_lies_in_the_cache_is_checked_once() {
    let (home, hub) = (tempfile::tempdir().unwrap(), Hub::start(Manners::Corrupts("none of them")));
    let output = pull(&hub, home.path(), &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let directory = PathBuf::from(text(&output.stdout).trim());
    let small = directory.join(SMALL);
    let right = std::fs::read(&small).unwrap();
    let mut wrong = right.clone();
    // In the comment of its first line.
    wrong[1] ^= 1;
    std::fs::write(&small, &wrong).unwrap();
    assert!(pull(&hub, home.path(), &[]).output().unwrap().status.success(), "it was checked again");
    // As if another program had fetched it.
    std::fs::remove_dir_all(directory.ancestors().nth(2).unwrap().join("checked")).unwrap();
    let error = text(&pull(&hub, home.path(), &[]).output().unwrap().stderr);
    assert!(error.contains(SMALL) && error.contains("corrupted"), "{error}");
    assert!(pull(&hub, home.path(), &[]).output().unwrap().status.success());
    assert_eq!((hub.starts(SMALL), hub.starts(SHARD)), (vec![0, 0], vec![0]));
    assert_eq!(std::fs::read(small).unwrap(), right);
}

#[test]
fn a_recipe_packs_what_was_fetched() {
    let (home, hub) = (tempfile::tempdir().unwrap(), Hub::start(Manners::Good));
    let output = pull(&hub, home.path(), &["--recipe", "24gb"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let directory = text(&output.stdout).trim().to_owned();
    assert!(directory.ends_with("someone--tiny-24gb"), "{directory}");
    let found = json(&["inspect", &directory, "--json"]);
    assert!(found["components"].as_array().unwrap().iter().any(|part| !part["packed"].as_object().unwrap().is_empty()));
}

#[test]
fn what_is_not_there_is_named() {
    let hub = Hub::start(Manners::Good);
    let error = refused(1, &["pull", "someone/other", "--endpoint", &hub.address]);
    assert!(error.contains("someone/other") && error.contains("404"), "{error}");
    // A port that nobody listens at.
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(1, &["pull", REPOSITORY, "--endpoint", &format!("http://{unused}")]);
    assert!(error.contains(&unused.to_string()), "{error}");
}
