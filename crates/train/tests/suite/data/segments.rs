use std::fs;
use std::path::{Path, PathBuf};

use qwen3_omni::Audio;
use qwen3_omni_train::data::{
    DataSource, EncodedLines, Line, LineEncoder, Location, Segment, SegmentOptions, Segments, read_codes,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Samples per second, frame and segment: small, so that places can be told from samples.
const RATE: u32 = 8_000;
const FRAME: usize = 40;
const FRAMES: usize = 3;
const STEP: f32 = 1.0 / 4096.0;

fn options() -> SegmentOptions {
    let (samples_per_frame, sample_rate) = (FRAME, RATE);
    SegmentOptions { frames: FRAMES, samples_per_frame, sample_rate, per_batch: 4, seed: 5, strict: true }
}

/// Writes a recording whose samples rise from `start` on, by one step each.
fn ramp(path: &Path, start: usize, samples: usize) {
    let samples = (start..start + samples).map(|at| at as f32 * STEP).collect();
    Audio { samples, sample_rate: RATE }.save_wav(path).unwrap();
}

fn lines(path: &Path, lines: &[Value]) -> PathBuf {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path.to_owned()
}

/// Three recordings: one of ten segments, one of a frame and a half, one of a frame.
fn recordings() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, start, samples) in [("long.wav", 1000, 10 * FRAMES * FRAME), ("a.wav", 100, 60), ("b.wav", 400, 40)] {
        ramp(&folder.path().join(name), start, samples);
    }
    let named = ["long.wav", "a.wav", "b.wav"].map(|name| json!({"speech": name}));
    lines(&folder.path().join("lines.jsonl"), &named);
    folder
}

fn start(folder: &Path, options: SegmentOptions, state: Option<&Value>) -> Segments {
    let source = DataSource::open("lines", [folder.join("lines.jsonl")]).unwrap();
    let state = state.map(|state| serde_json::from_value(state.clone()).unwrap());
    Segments::start(vec![source], options, state).unwrap()
}

/// Samples as numbers of steps.
fn steps(segment: &Segment) -> Vec<i64> {
    segment.samples.iter().map(|sample| (sample / STEP).round() as i64).collect()
}

#[test]
fn long_recordings_are_cut_at_random_and_short_ones_are_joined_by_frames() {
    let folder = recordings();
    let (mut starts, mut joined) = (Vec::new(), 0);
    for segment in start(folder.path(), options(), None).take(8).flat_map(Result::unwrap) {
        let steps = steps(&segment);
        assert_eq!(steps.len(), FRAMES * FRAME);
        if steps[0] >= 1000 {
            assert!(steps.windows(2).all(|pair| pair[1] == pair[0] + 1), "{steps:?}");
            starts.push(steps[0]);
            assert!(segment.origin.ends_with("lines.jsonl:1"), "{}", segment.origin);
        } else {
            joined += 1;
            assert!(segment.origin.contains("lines.jsonl:2") || segment.origin.contains("lines.jsonl:3"));
            // Each recording begins with a frame; what does not fill one is followed by silence.
            let mut at = 0;
            while at < FRAMES * FRAME {
                let (start, length) = match steps[at] {
                    100 => (100, 60),
                    400 => (400, 40),
                    1000 => (1000, FRAMES * FRAME),
                    other => panic!("{other} at {at} of {steps:?}"),
                };
                let end = length.min(FRAMES * FRAME - at);
                assert!((0..end).all(|i| steps[at + i] == start + i as i64), "{steps:?}");
                let next = (at + end).next_multiple_of(FRAME);
                assert!(steps[at + end..next].iter().all(|step| *step == 0));
                at = next;
            }
        }
    }
    starts.sort_unstable();
    let different = starts.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(joined > 1 && starts.len() > 20 && different * 10 > starts.len() * 9, "{joined} and {starts:?}");
    // Not only multiples of a frame.
    assert!(starts.iter().any(|start| (start - 1000) % FRAME as i64 != 0));
}

#[test]
fn segments_go_on_exactly_where_they_stopped() {
    let folder = recordings();
    // A window has 64 batches.
    let whole: Vec<Vec<Segment>> = start(folder.path(), options(), None).take(68).map(Result::unwrap).collect();
    for taken in [1, 63, 64, 65] {
        let mut first = start(folder.path(), options(), None);
        first.by_ref().take(taken).for_each(|batch| drop(batch.unwrap()));
        let state = serde_json::to_value(first.state()).unwrap();
        let rest = start(folder.path(), options(), Some(&state)).take(68 - taken).map(Result::unwrap);
        assert!(rest.eq(whole[taken..].iter().cloned()), "after {taken}");
    }
    let other = SegmentOptions { seed: 6, ..options() };
    let [a, b] = [options(), other].map(|options| start(folder.path(), options, None).next().unwrap().unwrap());
    assert_ne!(a, b);
    let mut first = start(folder.path(), options(), None);
    first.next().unwrap().unwrap();
    let source = DataSource::open("lines", [folder.path().join("lines.jsonl")]).unwrap();
    assert!(Segments::start(vec![source], other, Some(first.state().clone())).is_err());
}

#[test]
fn lines_without_a_recording_are_left_out_or_end_the_work() {
    let folder = recordings();
    let path = folder.path().join("lines.jsonl");
    fs::write(folder.path().join("broken.wav"), "RIFF").unwrap();
    let bad = [json!({"speech": "long.wav"}), json!({"codes": "x.safetensors"}), json!({"speech": "broken.wav"})];
    lines(&path, &bad);
    let mut lenient = start(folder.path(), SegmentOptions { strict: false, ..options() }, None);
    assert!(lenient.next().unwrap().unwrap().iter().all(|segment| segment.origin.ends_with(":1")));
    let error = start(folder.path(), options(), None).next().unwrap().unwrap_err().to_string();
    assert!(error.contains("lines.jsonl:2") || error.contains("lines.jsonl:3"), "{error}");
    lines(&path, &bad[1..]);
    let error = start(folder.path(), SegmentOptions { strict: false, ..options() }, None).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("none of its 2 lines"), "{error}");
    let error = |options| {
        let source = DataSource::open("lines", [path.clone()]).unwrap();
        Segments::start(vec![source], options, None).unwrap_err().to_string()
    };
    assert!(error(SegmentOptions { frames: 0, ..options() }).contains("frames"));
    assert!(error(SegmentOptions { per_batch: 1 << 60, ..options() }).contains("frames"));
}

/// Codes of a recording: for each frame its first step, and its number.
fn encode(samples: &[f32]) -> qwen3_omni_train::Result<Vec<Vec<u32>>> {
    let frames = samples.chunks(FRAME).enumerate();
    Ok(frames.map(|(index, frame)| vec![(frame[0] / STEP).round() as u32, index as u32]).collect())
}

#[test]
fn codes_take_the_place_of_recordings() {
    let folder = recordings();
    let talk = json!([{"role": "user", "content": "<audio>what"}, {"role": "assistant", "content": "that"}]);
    let path = lines(
        &folder.path().join("talks.jsonl"),
        &[
            json!({"messages": talk, "audios": ["q.wav"], "speech": "a.wav", "rejected_speech": "b.wav", "speaker": "vera"}),
            json!({"speech": "missing.wav"}),
            json!({"messages": talk, "audio": "/abs/q.wav", "solution": 7}),
        ],
    );
    let out = folder.path().join("out");
    let told = std::cell::RefCell::new(Vec::new());
    let tell = |error: &qwen3_omni_train::Error| told.borrow_mut().push(error.to_string());
    let encoder = |strict| LineEncoder { sample_rate: RATE, encode: &encode, strict, told: &tell };
    let found = encoder(false).file(&path, &out).unwrap();
    assert_eq!(found, EncodedLines { path: out.join("talks.jsonl"), lines: 2, recordings: 2, bad: 1 });
    assert!(matches!(&told.borrow()[..], [one] if one.contains("talks.jsonl:2") && one.contains("missing.wav")));

    let text = fs::read_to_string(&found.path).unwrap();
    let written: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let audio = fs::canonicalize(folder.path()).unwrap().join("q.wav");
    let [codes, rejected] = ["talks/000001.safetensors", "talks/000001-rejected.safetensors"];
    let expected =
        json!({"messages": talk, "audios": [audio], "codes": codes, "rejected_codes": rejected, "speaker": "vera"});
    assert_eq!(written, [expected, json!({"messages": talk, "audio": "/abs/q.wav", "solution": 7})]);
    let location = Location { path: found.path.as_path().into(), line: 1 };
    let line = Line::parse(text.lines().next().unwrap(), &location).unwrap();
    let codes = |name: &str| read_codes(&out.join("talks").join(name), 2, &line).unwrap();
    assert_eq!(codes("000001.safetensors"), [[100, 0], [140, 1]]);
    assert_eq!(codes("000001-rejected.safetensors"), [[400, 0]]);

    let error = encoder(true).file(&path, &out).unwrap_err().to_string();
    assert!(error.contains("talks.jsonl:2"), "{error}");
    let error = encoder(false).file(&path, folder.path()).unwrap_err().to_string();
    assert!(error.contains("expected another folder"), "{error}");
}
