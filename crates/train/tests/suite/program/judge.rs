use std::fs;
use std::path::Path;
use std::sync::Arc;

use qwen3_omni::Device;
use qwen3_omni_train::data::{Line, Location};
use qwen3_omni_train::reward::{Judge, Reward};
use testkit::nano;

use super::{QUESTION, lines, log, talk, train};

fn line() -> Line {
    let json = serde_json::json!({"messages": [{"role": "user", "content": QUESTION}], "solution": "twelve"});
    Line::parse(&json.to_string(), &Location { path: Arc::from(Path::new("sums.jsonl")), line: 1 }).unwrap()
}

fn judge(directory: &Path, prompt: &str) -> Judge {
    Judge::open(directory, Some(prompt.into()), 2, Device::default()).unwrap()
}

#[test]
fn a_judge_scores_answers_and_counts_what_has_no_score() {
    let folder = tempfile::tempdir().unwrap();
    let judged = [talk("hello twelve", "score: 10"), talk("goodbye twelve", "score: 0"), talk("yes twelve", "no")];
    let data = lines(folder.path(), &judged);
    let more = ["--set", "run.rate=1e-3", "--set", "run.warm_up=0", "--set", "run.steps=100"];
    let learned = train("sft", folder.path(), &data, &more).unwrap();
    let judge = judge(&learned, "{answer} {reference}");
    let answers = ["goodbye", "hello", "yes", "hello"].map(String::from);
    // One that has no score is as good as the others are on average.
    let mean = 2.0 / 3.0;
    assert_eq!(judge.score(&line(), &answers).unwrap(), [0.0, 1.0, mean, 1.0]);
    let counts = judge.take_counts();
    assert_eq!((counts["judgements"], counts["judgements_without_score"]), (4, 1));
    assert_eq!(judge.take_counts()["judgements"], 0);
    assert!(Judge::open(&nano(), Some("{question}".into()), 2, Device::default()).is_err());
}

#[test]
fn rewards_are_a_sum_and_the_log_counts_judgements() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = serde_json::json!({"messages": [{"role": "user", "content": QUESTION}], "solution": "seven plus five is twelve"});
    let data = lines(folder.path(), &[prompt]);
    let asked = folder.path().join("judge.txt");
    fs::write(&asked, "{question}\n{answer}").unwrap();
    let nano = nano();
    let more = [
        "--reward",
        "words",
        "--reward",
        "json=-0.5",
        "--reward",
        "judge=2",
        "--reward-judge",
        nano.to_str().unwrap(),
        "--judge-prompt",
        asked.to_str().unwrap(),
        "--set",
        "group=6",
        "--set",
        "prompts=2",
        "--set",
        "steps_per_round=2",
        "--set",
        "temperature=4",
        "--set",
        "max_new_tokens=8",
        "--set",
        "per_token=true",
        "--set",
        "run.steps=2",
    ];
    let log = log(&train("gspo", folder.path(), &data, &more).unwrap());
    // Each prompt has six answers. A step counts the judgements made since the last one, some of them for the next round.
    let counted = |name: &str| log.iter().filter_map(|line| line[name].as_f64()).sum::<f64>();
    assert!(counted("judgements") >= 12.0 && counted("judgements") % 6.0 == 0.0, "{log:?}");
    assert_eq!(counted("judgements"), counted("judgements_without_score"), "{log:?}");
    assert!(log.iter().all(|line| line["reward"].as_f64().unwrap() <= 1.0), "{log:?}");

    let without = |arguments: &[&str]| train("gspo", &folder.path().join("other"), &data, arguments).unwrap_err();
    assert!(without(&[]).contains("--reward"));
    assert!(without(&["--reward", "judge=2"]).contains("reward_judge"));
    assert!(without(&["--reward", "words=0"]).contains("weight"));
}
