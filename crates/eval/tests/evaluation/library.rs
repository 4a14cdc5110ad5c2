//! Runs through the library.

use std::fs;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use qwen3_omni_eval::wer::{Edits, corpus};
use qwen3_omni_eval::{
    Clip, CommandRecogniser, Error, Evaluation, Item, ItemsFile, ModelRecogniser, Outcomes, ReadOptions, Recogniser,
    Report, Result, Score, Settings, Suite,
};

use crate::{PREFIX, TRANSCRIBE, greedy, items_path, lines, nano, spoken_questions, spoken_set, sums};

fn read(suite: Suite, data: &std::path::Path) -> Vec<Item> {
    suite.read(data, &ReadOptions::default()).unwrap()
}

/// Asks nano the questions of a suite as they stand.
fn ask(items: &[Item], sessions: usize, file: &mut ItemsFile) -> Result<Outcomes> {
    let options = greedy();
    let evaluation = Evaluation {
        omni: Some(nano()),
        recogniser: None,
        codec: None,
        prompt: "{question}",
        options: &options,
        speech: None,
        sessions,
    };
    evaluation.run(items, file, &mut |_| {})
}

/// Has a recogniser hear the items.
fn hear(items: &[Item], recogniser: &dyn Recogniser, sessions: usize, file: &mut ItemsFile) -> Result<Outcomes> {
    let options = greedy();
    let (omni, recogniser) = (Some(nano()), Some(recogniser));
    let evaluation = Evaluation {
        omni,
        recogniser,
        codec: None,
        prompt: "repeat {text}",
        options: &options,
        speech: None,
        sessions,
    };
    evaluation.run(items, file, &mut |_| {})
}

fn nano_hears() -> ModelRecogniser {
    ModelRecogniser::new(nano().clone(), TRANSCRIBE, greedy()).prefix(PREFIX)
}

#[test]
fn nano_transcribes_its_own_voice_and_the_rate_is_that_of_all_words() {
    let items = read(Suite::Librispeech, spoken_set());
    let outcomes = hear(&items, &nano_hears(), 2, &mut ItemsFile::in_memory()).unwrap();
    let report = Report::new(Suite::Librispeech, Settings::default(), &outcomes);
    let ids: Vec<&str> = outcomes.all.iter().map(|outcome| outcome.id.as_str()).collect();
    assert_eq!(ids, ["1-2-0000", "1-2-0001", "1-2-0002", "1-2-0003"]);
    assert_eq!(outcomes.all[0].answer, "three eight purple");
    let edits = outcomes.all.iter().map(|outcome| {
        let expected = outcome.expected.as_str().unwrap().to_lowercase();
        assert!(outcome.sound_seconds > 0.5 && outcome.seconds > 0.0);
        // Number words become digits on both sides, one word each: the rate does not change.
        Edits::words(&expected, &outcome.answer)
    });
    let rate = corpus(edits).rate().unwrap();
    assert!(rate <= 0.3, "{:?}", outcomes.all);
    assert!(report.measures["wer"].as_f64().unwrap() <= 0.4, "{report}");
    let factor = report.real_time_factor.unwrap();
    assert!((factor - report.seconds / report.sound_seconds).abs() < 1e-9 && report.new_items == 4, "{report}");
}

#[test]
fn sums_are_right_or_wrong_whatever_the_number_of_sessions() {
    let folder = sums();
    let items = read(Suite::Aime, folder.path());
    let [alone, together] = [1, 4].map(|sessions| ask(&items, sessions, &mut ItemsFile::in_memory()).unwrap());
    let answers = |outcomes: &Outcomes| outcomes.all.iter().map(|outcome| outcome.answer.clone()).collect::<Vec<_>>();
    assert_eq!(answers(&alone), answers(&together));
    assert_eq!(answers(&alone)[0], "seven plus five is twelve");
    let report = Report::new(Suite::Aime, Settings::default(), &together);
    assert_eq!((&report.measures["accuracy"], &report.measures["unanswered"]), (&0.75.into(), &0.0.into()));
    let groups: Vec<(&str, usize, usize)> =
        report.groups.iter().map(|(name, group)| (name.as_str(), group.items, group.right)).collect();
    assert_eq!(groups, [("0", 2, 2), ("1", 2, 1)]);
    let table = report.to_string();
    assert!(table.contains("accuracy    75.00 %") && table.contains("right of 1  50.00 % (1 of 2)"), "{table}");
}

#[test]
fn spoken_questions_are_heard() {
    let folder = spoken_questions();
    let outcomes = ask(&read(Suite::Choice, folder.path()), 1, &mut ItemsFile::in_memory()).unwrap();
    let scores: Vec<&Score> = outcomes.all.iter().map(|outcome| &outcome.score).collect();
    let answer = |taken: Option<&str>, is_right| Score::Answer { taken: taken.map(str::to_owned), is_right };
    assert_eq!(
        scores,
        [&answer(Some("B"), true), &answer(Some("A"), false), &answer(None, false)],
        "{:?}",
        outcomes.all
    );
}

#[test]
fn nano_solves_no_puzzle() {
    let folder = tempfile::tempdir().unwrap();
    let list = r#"{"id": "p", "size": "1*1", "puzzle": "where is the cat", "solution": {"header": ["House", "Pet"], "rows": [["1", "cat"]]}}"#;
    fs::write(folder.path().join("zebra.jsonl"), list).unwrap();
    let outcomes = ask(&read(Suite::Zebra, folder.path()), 1, &mut ItemsFile::in_memory()).unwrap();
    let measures = Report::new(Suite::Zebra, Settings::default(), &outcomes).measures;
    let figures = ["puzzle_accuracy", "cell_accuracy", "unanswered"].map(|name| measures[name].as_f64().unwrap());
    assert_eq!(figures, [0.0, 0.0, 1.0]);
}

#[test]
fn what_nano_speaks_is_heard_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("meta.lst"), "a|big white fish\nb|p|p.wav|Red cat, nine!\n").unwrap();
    let items = read(Suite::SeedTts, folder.path());
    let kept = folder.path();
    let (options, recogniser) = (greedy(), nano_hears());
    let evaluation = Evaluation {
        omni: Some(nano()),
        recogniser: Some(&recogniser),
        codec: None,
        prompt: "repeat {text}",
        options: &options,
        speech: Some(kept),
        sessions: 2,
    };
    let outcomes = evaluation.run(&items, &mut ItemsFile::in_memory(), &mut |_| {}).unwrap();
    assert_eq!(outcomes.all[0].answer, "big white fish");
    let report = Report::new(Suite::SeedTts, Settings::default(), &outcomes);
    assert_eq!(report.measures["words"], 6);
    let rates = ["wer", "cer", "seed_tts_wer"].map(|name| report.measures[name].as_f64().unwrap());
    assert!(rates.iter().all(|rate| (0.0..1.0).contains(rate)), "{report}");
    let wav = hound::WavReader::open(kept.join("a.wav")).unwrap();
    let seconds = f64::from(wav.duration()) / f64::from(wav.spec().sample_rate);
    assert!((seconds - outcomes.all[0].sound_seconds).abs() < 1e-3, "{seconds}");
}

/// Hears everything as one word, and counts how often it was asked at once.
#[derive(Default)]
struct Deaf {
    asked: Mutex<Vec<f64>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Recogniser for Deaf {
    fn transcribe(&self, clip: &Clip) -> Result<String> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.asked.lock().unwrap().push(clip.seconds());
        Ok("dog".into())
    }
}

#[test]
fn several_items_are_asked_at_once() {
    let items = read(Suite::Librispeech, spoken_set());
    for sessions in [1, 3] {
        let deaf = Deaf::default();
        let outcomes = hear(&items, &deaf, sessions, &mut ItemsFile::in_memory()).unwrap();
        assert_eq!(deaf.most.into_inner(), sessions);
        assert_eq!((deaf.asked.into_inner().unwrap().len(), outcomes.new_items), (4, 4));
    }
}

/// Hears two clips and then no more.
#[derive(Default)]
struct Breaking(AtomicUsize);

impl Recogniser for Breaking {
    fn transcribe(&self, _: &Clip) -> Result<String> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Ok("dog".into()),
            _ => Err(Error::Request("broken".into())),
        }
    }
}

#[test]
fn what_was_done_before_an_error_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (items, path) = (read(Suite::Librispeech, spoken_set()), items_path(&folder));
    let file = || ItemsFile::open(&path, &Settings::default()).unwrap();
    let told = hear(&items, &Breaking::default(), 1, &mut file()).unwrap_err().to_string();
    assert_eq!(told, "item `1-2-0002`: broken");
    assert_eq!((file().len(), lines(&path).len()), (2, 3));
    let deaf = Deaf::default();
    assert_eq!(hear(&items, &deaf, 3, &mut file()).unwrap().all.len(), 4);
    assert_eq!(deaf.asked.into_inner().unwrap().len(), 2);
}

#[test]
fn parts_of_a_recording_are_cut_out() {
    let folder = tempfile::tempdir().unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(folder.path().join("a.wav"), spec).unwrap();
    (0..24_000).for_each(|index: i32| wav.write_sample((index % 100) as i16).unwrap());
    wav.finalize().unwrap();
    let segment = |sid: &str, begin: f64, end: f64| serde_json::json!({"sid": sid, "begin_time": begin, "end_time": end, "subsets": ["TEST_NET"], "text": "狗"});
    let write = |segments: &[serde_json::Value]| {
        let list = serde_json::json!({"audios": [{"path": "a.wav", "segments": segments}]});
        fs::write(folder.path().join("WenetSpeech.json"), list.to_string()).unwrap();
    };
    write(&[segment("a", 0.5, 1.25), segment("b", 2.0, 9.0)]);
    let deaf = Deaf::default();
    let items = read(Suite::Wenetspeech, folder.path());
    let outcomes = hear(&items, &deaf, 1, &mut ItemsFile::in_memory()).unwrap();
    assert_eq!(deaf.asked.into_inner().unwrap(), [0.75, 1.0]);
    // "狗" and "狗" against "d o g" twice: three errors for each character.
    let report = Report::new(Suite::Wenetspeech, Settings::default(), &outcomes);
    assert_eq!((&report.measures["characters"], &report.measures["cer"]), (&2.into(), &3.0.into()), "{report}");
    write(&[segment("c", 5.0, 6.0)]);
    let items = read(Suite::Wenetspeech, folder.path());
    let told = hear(&items, &Deaf::default(), 1, &mut ItemsFile::in_memory()).unwrap_err().to_string();
    assert!(told.contains("item `c`") && told.contains("it has 3.00 s, but 5 to 6 s are asked"), "{told}");
}

#[test]
fn a_run_goes_on_where_it_was_stopped() {
    let (data, folder) = (sums(), tempfile::tempdir().unwrap());
    let (items, path) = (read(Suite::Aime, data.path()), items_path(&folder));
    let settings = Settings::default().with_model(&testkit::nano()).unwrap().with("prompt", "{question}");
    let run = |items: &[Item]| ask(items, 2, &mut ItemsFile::open(&path, &settings).unwrap()).unwrap();
    assert_eq!(run(&items[..2]).new_items, 2);
    // The program was ended while it wrote a line.
    fs::File::options().append(true).open(&path).unwrap().write_all(b"{\"id\": \"sum2\", \"exp").unwrap();
    let outcomes = run(&items);
    assert_eq!((outcomes.new_items, outcomes.all.len()), (2, 4));
    assert_eq!(lines(&path).len(), 5);
    let again = run(&items);
    assert_eq!((again.new_items, &again.all), (0, &outcomes.all));
    assert!(!Report::new(Suite::Aime, settings.clone(), &again).to_string().contains("seconds"));
    let line = lines(&path).into_iter().find(|line| line["id"] == "sum0").unwrap();
    assert_eq!((&line["expected"], &line["answer"]), (&12.into(), &"seven plus five is twelve".into()));
    assert_eq!(line["score"], serde_json::json!({"kind": "answer", "taken": "12", "is_right": true}));

    // Another model, another prompt, other data, and a file of something else.
    let open = |settings: &Settings| ItemsFile::open(&path, settings).unwrap_err();
    let other = Settings::default().with_model(&testkit::tiny()).unwrap().with("prompt", "{question}");
    assert!(matches!(open(&other), Error::OtherRun { setting, .. } if setting == "model"));
    let told = open(&settings.clone().with("prompt", "Say {question}")).to_string();
    assert!(told.contains("items.jsonl: its run had prompt \"{question}\", this one has \"Say {question}\""), "{told}");
    fs::write(data.path().join("aime.jsonl"), "{\"id\": \"sum0\", \"problem\": \"?\", \"answer\": 1}").unwrap();
    let changed = read(Suite::Aime, data.path());
    let told = ask(&changed, 1, &mut ItemsFile::open(&path, &settings).unwrap()).unwrap_err().to_string();
    assert!(told.contains("item `sum0` had the right answer 12, now it has 1"), "{told}");
    fs::write(&path, "{\"id\": 3}\n").unwrap();
    assert!(open(&settings).to_string().contains("items.jsonl:1: expected the settings of a run"));
}

#[cfg(unix)]
#[test]
fn any_program_recognises() {
    let items = read(Suite::Librispeech, spoken_set());
    let echo = CommandRecogniser::new("sh -c 'test -s \"$1\" && echo \" big white  fish \"' sh {wav}").unwrap();
    let outcomes = hear(&items, &echo, 2, &mut ItemsFile::in_memory()).unwrap();
    assert!(outcomes.all.iter().all(|outcome| outcome.answer == "big white  fish"));
    assert!(outcomes.all[1].score.is_right() && !outcomes.all[0].score.is_right());
    for (command, reason) in [
        ("sh -c 'echo oh dear >&2; exit 3' {wav}", "oh dear"),
        ("no-such-program {wav}", "it does not run"),
        ("printf '\\377' {wav}", "is no UTF-8"),
    ] {
        let failing = CommandRecogniser::new(command).unwrap();
        let told = hear(&items, &failing, 1, &mut ItemsFile::in_memory()).unwrap_err().to_string();
        assert!(told.contains("item `1-2-0000`: recogniser `") && told.contains(reason), "{told}");
    }
    for (command, reason) in [("cat", "expected {wav}"), ("", "it is empty"), ("cat '{wav}", "a quote is not closed")] {
        assert!(CommandRecogniser::new(command).unwrap_err().to_string().contains(reason), "{command}");
    }
    // Speech that is in no file reaches it as one.
    let clip = Clip { samples: vec![0.0; 480].into(), sample_rate: 24_000, file: None };
    let size = CommandRecogniser::new("wc -c {wav}").unwrap().transcribe(&clip).unwrap();
    assert_eq!(size.split_whitespace().next(), Some("1004"));
}
