//! Each suite's form, read from small sets that are made here.

use std::fs;
use std::path::Path;

use qwen3_omni_eval::extract::grid;
use qwen3_omni_eval::normalise::Normaliser;
use qwen3_omni_eval::{Expected, Item, ReadOptions, Result, Sound, Suite, Task};
use serde_json::json;
use tempfile::TempDir;

/// A folder with these files; those of sound hold a moment of silence.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match name.ends_with(".wav") {
            true => silence(&path),
            false => fs::write(&path, text).unwrap(),
        }
    }
    folder
}

fn silence(path: &Path) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    (0..160).for_each(|_| wav.write_sample(0_i16).unwrap());
    wav.finalize().unwrap();
}

fn read(suite: Suite, folder: &TempDir) -> Result<Vec<Item>> {
    suite.read(folder.path(), &ReadOptions::default())
}

fn read_split(suite: Suite, folder: &TempDir, split: &str) -> Result<Vec<Item>> {
    suite.read(folder.path(), &ReadOptions { split: Some(split.into()), ..ReadOptions::default() })
}

/// The error of a suite whose list `name` holds `text`.
fn error(suite: Suite, name: &str, text: &str) -> String {
    read(suite, &folder(&[(name, text), ("a.wav", "")])).unwrap_err().to_string()
}

fn transcripts(items: &[Item]) -> Vec<(&str, &str, Normaliser)> {
    items.iter().map(transcript).collect()
}

fn transcript(item: &Item) -> (&str, &str, Normaliser) {
    match &item.task {
        Task::Transcribe { text, normaliser, .. } => (&item.id, text, *normaliser),
        other => panic!("{other:?} is nothing to transcribe"),
    }
}

fn choices(items: &[Item]) -> Vec<(&str, &str)> {
    items.iter().map(choice).collect()
}

/// The id and the right option.
fn choice(item: &Item) -> (&str, &str) {
    match &item.task {
        Task::Answer { expected: Expected::Choice { options, right }, .. } => (&item.id, &options[*right]),
        other => panic!("{other:?} has no options"),
    }
}

#[test]
fn librispeech_is_read_below_its_split() {
    let set = folder(&[
        ("test-clean/61/70968/61-70968.trans.txt", "61-70968-0000 HE BEGAN\n61-70968-0001 AND SO ON\n"),
        ("test-clean/61/70968/61-70968-0000.wav", ""),
        ("test-clean/61/70968/61-70968-0001.wav", ""),
        ("test-clean/121/1/121-1.trans.txt", "121-1-0000 ALSO\n"),
        ("test-clean/121/1/121-1-0000.wav", ""),
        ("other/1/1/1-1.trans.txt", "1-1-0000 NOT ASKED FOR\n"),
        ("other/1/1/1-1-0000.wav", ""),
    ]);
    let items = read_split(Suite::Librispeech, &set, "test-clean").unwrap();
    let english = Normaliser::English;
    let expected = [
        ("121-1-0000", "ALSO", english),
        ("61-70968-0000", "HE BEGAN", english),
        ("61-70968-0001", "AND SO ON", english),
    ];
    assert_eq!(transcripts(&items), expected);
    assert_eq!(read(Suite::Librispeech, &set).unwrap().len(), 4);
    assert!(read_split(Suite::Librispeech, &set, "dev").unwrap_err().to_string().contains("dev"));
    let told = error(Suite::Librispeech, "1/1-1.trans.txt", "\n1-1-0000 NO SOUND");
    assert!(told.contains("1-1.trans.txt:2: there is no 1-1-0000.flac"), "{told}");
    assert!(
        error(Suite::Librispeech, "1-1.trans.txt", "a").contains("1-1.trans.txt:1: `a`, expected an id and a text")
    );
}

#[test]
fn fleurs_takes_its_rules_from_the_language() {
    let line = "12\tx.wav\tHello, World!\thello world\th e l l o\t160\tFEMALE\n";
    for (language, normaliser) in
        [("en_us", Normaliser::English), ("de_de", Normaliser::Basic), ("cmn_hans_cn", Normaliser::Characters)]
    {
        let (list, sound) = (format!("{language}/test.tsv"), format!("{language}/audio/test/x.wav"));
        let set = folder(&[(&list, line), (&sound, "")]);
        let items = Suite::Fleurs.read(&set.path().join(language), &ReadOptions::default()).unwrap();
        assert_eq!(transcripts(&items), [("x.wav", "Hello, World!", normaliser)]);
        assert_eq!(items[0].group.as_deref(), Some("female"));
    }
    assert!(error(Suite::Fleurs, "test.tsv", "1\ta.wav\ttext\n").contains("test.tsv:1: 3 columns, expected 7"));
    assert!(error(Suite::Fleurs, "test.tsv", &line.repeat(2)).contains("test.tsv:1: there is no file"));
}

#[test]
fn wenetspeech_is_cut_into_the_segments_of_a_subset() {
    let segment = |sid: &str, begin: f64, end: f64, subset: &str| json!({"sid": sid, "begin_time": begin, "end_time": end, "subsets": [subset], "text": "你好"});
    let list = |segments: serde_json::Value| {
        json!({"audios": [{"aid": "A", "path": "audio/a.wav", "segments": segments}]}).to_string()
    };
    let good = list(json!([segment("A_0", 0.5, 1.25, "TEST_NET"), segment("A_1", 2.0, 3.0, "TEST_MEETING")]));
    let set = folder(&[("WenetSpeech.json", &good), ("audio/a.wav", "")]);
    let items = read(Suite::Wenetspeech, &set).unwrap();
    assert_eq!(transcripts(&items), [("A_0", "你好", Normaliser::Characters)]);
    let sound = Sound { file: set.path().join("audio/a.wav"), span: Some((0.5, 1.25)) };
    assert!(matches!(&items[0].task, Task::Transcribe { sound: found, .. } if *found == sound));
    assert_eq!(read_split(Suite::Wenetspeech, &set, "TEST_MEETING").unwrap()[0].id, "A_1");
    let backwards =
        folder(&[("WenetSpeech.json", &list(json!([segment("A_0", 2.0, 1.0, "TEST_NET")]))), ("audio/a.wav", "")]);
    assert!(read(Suite::Wenetspeech, &backwards).unwrap_err().to_string().contains("segment A_0: it is 2 to 1 s"));
    assert!(error(Suite::Wenetspeech, "WenetSpeech.json", "{\n\"audios\": 3}").contains("WenetSpeech.json:2"));
}

#[test]
fn gtzan_has_its_genres_from_the_folders() {
    let set = folder(&[
        ("genres_original/rock/rock.00000.wav", ""),
        ("genres_original/blues/blues.00000.wav", ""),
        ("genres_original/blues/blues.00001.wav", ""),
        ("genres_original/blues/notes.txt", ""),
    ]);
    let items = read(Suite::Gtzan, &set).unwrap();
    let expected =
        [("blues/blues.00000.wav", "blues"), ("blues/blues.00001.wav", "blues"), ("rock/rock.00000.wav", "rock")];
    assert_eq!(choices(&items), expected);
    assert!(error(Suite::Gtzan, "rock/readme", "").contains("1 folders of genres"));
}

#[test]
fn multiple_choice_is_read_in_the_forms_of_mmau_and_muchomusic() {
    let mmau = json!([
        {"id": "x", "audio_id": "./a.wav", "question": "Who?", "choices": ["man", "woman"], "answer": "woman", "task": "speech"},
        {"id": "y", "audio_id": "a.wav", "question": "Who?", "choices": ["man", "woman"], "answer": "(A)", "task": "music"},
    ]);
    let items = read(Suite::Choice, &folder(&[("mmau-test-mini.json", &mmau.to_string()), ("a.wav", "")])).unwrap();
    assert_eq!(choices(&items), [("x", "woman"), ("y", "man")]);
    assert_eq!((items[0].group.as_deref(), items[0].expected()), (Some("speech"), json!("(B) woman")));

    let prepared = json!([{"id": 7, "prompt": "Question: …", "answers": ["b", "c", "right", "d"], "answer_orders": [1, 2, 0, 3], "audio_path": "a.wav"}]);
    let items = read(Suite::Choice, &folder(&[("muchomusic.json", &prepared.to_string()), ("a.wav", "")])).unwrap();
    assert_eq!(choices(&items), [("7", "right")]);

    let table = "question,correct_answer,distractor_1_answer,distractor_2_answer,distractor_3_answer,path\n\
                 \"Which, then?\",right,b,c,d,a.wav\n";
    let items = read(Suite::Choice, &folder(&[("muchomusic.csv", table), ("a.wav", "")])).unwrap();
    assert_eq!(choices(&items), [("2", "right")]);
    let Task::Answer { question, expected, .. } = &items[0].task else { panic!("no question") };
    assert_eq!((question.as_str(), expected.options().lines().count()), ("Which, then?", 4));

    for (entry, reason) in [
        (json!({"question": "Who?"}), "questions.jsonl:2: no `choices` or `options` or `answers`"),
        (json!({"question": "Who?", "choices": ["a", "b"], "answer": "c"}), "`c` is none of the options"),
        (json!({"question": "Who?", "choices": ["a"], "answer": "a"}), "1 options, expected 2 to 26"),
        (json!({"question": "Who?", "choices": ["a", "b"], "answer": "a", "audio": "b.wav"}), "there is no file"),
        (json!(3), "questions.jsonl:2: expected JSON objects"),
    ] {
        let good = json!({"question": "Who?", "choices": ["a", "b"], "answer": "a", "audio": "a.wav"});
        let told = error(Suite::Choice, "questions.jsonl", &format!("{good}\n{entry}\n"));
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn gpqa_draws_the_order_of_options_from_the_seed() {
    let header = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n";
    let rows: String = (0..8).map(|index| format!("rec{index},\"Why,\nthough?\",right,b,c,d,Physics\n")).collect();
    let set = folder(&[("gpqa_diamond.csv", &format!("{header}{rows}"))]);
    let read = |seed| Suite::Gpqa.read(set.path(), &ReadOptions { seed, ..ReadOptions::default() }).unwrap();
    let items = read(0);
    assert!(choices(&items).iter().all(|(_, right)| *right == "right") && items.len() == 8);
    assert!(read(0) == items && read(1) != items);
    let missing = error(Suite::Gpqa, "gpqa_diamond.csv", &format!("{header}rec0,Why?,right,b,,d,\n"));
    assert!(missing.contains("gpqa_diamond.csv:2: no `Incorrect Answer 2`"), "{missing}");
    let short = error(Suite::Gpqa, "gpqa_diamond.csv", &format!("{header}rec0,Why?\n"));
    assert!(short.contains("gpqa_diamond.csv:2: 2 cells, expected 7"), "{short}");
}

#[test]
fn aime_has_whole_numbers() {
    let set = folder(&[(
        "aime.jsonl",
        "{\"ID\": \"2024-I-1\", \"Problem\": \"1 + 1?\", \"Answer\": 2}\n\n{\"problem\": \"?\", \"answer\": \"073\"}\n",
    )]);
    let items = read(Suite::Aime, &set).unwrap();
    assert_eq!(
        items.iter().map(|item| (item.id.as_str(), item.expected())).collect::<Vec<_>>(),
        [("2024-I-1", json!(2)), ("3", json!(73))]
    );
    let told = error(Suite::Aime, "aime.jsonl", "{\"problem\": \"?\", \"answer\": \"x\"}");
    assert!(told.contains("aime.jsonl:1: the answer is `x`, expected a whole number"), "{told}");
}

#[test]
fn zebra_makes_the_form_of_its_solution() {
    let puzzle = |rows: serde_json::Value| {
        json!({"id": "lgp-0", "size": "2*2", "puzzle": "Clues", "solution": {"header": ["House", "Name", "Pet"], "rows": rows}}).to_string()
    };
    let set = folder(&[("zebra.jsonl", &puzzle(json!([["1", "Eric", "cat"], ["2", "Ann", "dog"]])))]);
    let items = read(Suite::Zebra, &set).unwrap();
    let Task::Answer { expected: Expected::Grid(solution), .. } = &items[0].task else { panic!("no puzzle") };
    assert_eq!((solution.cells(), solution.0["House 2"]["Pet"].as_str()), (4, "dog"));
    let form = Expected::Grid(solution.clone()).options();
    assert_eq!(grid(&form).unwrap().cells(), 4);
    assert!(
        error(Suite::Zebra, "zebra.jsonl", &puzzle(json!([["1", "Eric"]]))).contains("row 1 has 2 cells, expected 3")
    );
    assert!(error(Suite::Zebra, "zebra.jsonl", &puzzle(json!([]))).contains("its solution is empty"));
}

#[test]
fn seed_tts_lists_are_read_in_all_their_forms() {
    let list = "a|prompt|p.wav|one|true.wav\nb|prompt|p.wav|two\nc|three|p.wav\nd|four\n";
    let items = read(Suite::SeedTts, &folder(&[("meta.lst", list)])).unwrap();
    let spoken: Vec<(&str, serde_json::Value)> = items.iter().map(|item| (item.id.as_str(), item.expected())).collect();
    assert_eq!(spoken, [("a", json!("one")), ("b", json!("two")), ("c", json!("three")), ("d", json!("four"))]);
    let chinese = folder(&[("zh/meta.lst", "a|你好")]);
    let items = Suite::SeedTts.read(&chinese.path().join("zh"), &ReadOptions::default()).unwrap();
    assert!(matches!(items[0].task, Task::Speak { normaliser: Normaliser::Characters, .. }));
    assert!(error(Suite::SeedTts, "meta.lst", "a|one\nalone").contains("meta.lst:2: 1 fields"));
    assert!(error(Suite::SeedTts, "meta.lst", "a|one\na|two").contains("two items have the id `a`"));
    assert!(error(Suite::SeedTts, "meta.lst", "").contains("no item"));
}

#[test]
fn what_is_missing_or_no_text_is_named() {
    let empty = folder(&[]);
    for suite in Suite::ALL {
        let told = read(suite, &empty).unwrap_err().to_string();
        assert!(told.contains(empty.path().to_str().unwrap()), "{suite}: {told}");
        assert_eq!(suite.name().parse::<Suite>().unwrap(), suite);
    }
    let set = folder(&[]);
    fs::write(set.path().join("meta.lst"), b"a|one\nb|\xff\n").unwrap();
    assert!(read(Suite::SeedTts, &set).unwrap_err().to_string().contains("meta.lst:2: it is no UTF-8"));
    assert!("sat".parse::<Suite>().unwrap_err().to_string().contains("librispeech, fleurs"));
}
