//! `doctor`, completions, help, the commands of `weights-tools`, and readers that go away.

use crate::{json, path, program, refused, text, told};

#[test]
fn the_machine_is_told() {
    let found = json(&["doctor", "--json"]);
    let cpu = &found["devices"][0];
    assert_eq!((&cpu["name"], &cpu["built"], &cpu["found"]), (&"cpu".into(), &true.into(), &true.into()), "{found}");
    let memory = |key: &str| found["memory"][key].as_u64().unwrap();
    assert!(memory("total") > 1 << 28 && memory("available") <= memory("total"), "{found}");
    assert!(
        found["processor"]["cores"].as_u64().unwrap() > 0 && found["cache"]["free"].as_u64().unwrap() > 0,
        "{found}"
    );
    let forms: Vec<&str> =
        found["models"].as_array().unwrap().iter().map(|model| model["form"].as_str().unwrap()).collect();
    assert_eq!(forms, ["24gb", "48gb", "80gb", "bf16"]);
    for model in found["models"].as_array().unwrap() {
        assert_eq!(model["fits"], model["bytes"].as_u64().unwrap() <= memory("available"), "{model}");
    }
    let words = told(&["doctor"]);
    assert!(words.contains("device cpu ") && words.contains("24gb"), "{words}");
}

#[test]
fn every_command_has_an_example_and_completions_know_it() {
    let help = told(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> =
        listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(commands.len() >= 13, "{commands:?}");
    let scripts = ["bash", "zsh", "fish", "powershell", "elvish"].map(|shell| told(&["completions", shell]));
    for command in commands {
        let help = told(&[command, "--help"]);
        assert!(help.contains(&format!("Example: qwen3-omni {command}")), "{help}");
        assert!(scripts.iter().all(|script| script.contains(command)), "{command}");
    }
}

#[test]
fn the_commands_of_weights_tools_are_there_with_their_codes() {
    let tiny = path(&testkit::tiny());
    assert!(told(&["inspect", &tiny]).contains("nothing missing, nothing odd"));
    assert_eq!(json(&["inspect", &tiny, "--json"])["variant"], "Instruct");
    // Not the released checkpoint, which is no error.
    let output = program(&["inspect", &tiny, "--expect", "released"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(refused(2, &["inspect", "no/such/model"]).contains("no/such/model"));
    let golden = path(&testkit::golden());
    assert!(told(&["verify", "--model", &tiny, "--golden", &golden, "--only", "positions_"]).contains("verified"));
    let directory = tempfile::tempdir().unwrap();
    let packed = path(&directory.path().join("packed"));
    assert_eq!(told(&["quantize", &tiny, &packed, "--bits", "8"]).lines().last(), Some(&*format!("written: {packed}")));
    assert!(told(&["compare", &tiny, &packed]).contains("thinker"));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    for arguments in [&["ask", "repeat cat"] as &[&str], &["--help"], &["doctor"], &["completions", "bash"]] {
        let mut child = program(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_the_output_is_an_error() {
    for arguments in [&["ask", "repeat cat"] as &[&str], &["doctor"], &["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program(arguments).stdout(full).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("error: standard output"), "{arguments:?}: {said}");
    }
}
