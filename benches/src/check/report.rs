//! From the findings of all steps to one table and one JSON document.

use std::fmt::Write as _;

use omni_core::{Error, Result};
use serde_json::{Value, json};

use super::first_line;
use crate::timing::rounded;

/// Findings, one JSON object a line, in the order they were made. Each step ends with `{"kind": "step", …}`.
///
/// A line that was cut off, because the program was stopped, is left out.
pub fn read(lines: &str) -> Vec<Value> {
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// All findings in one document, each step with its own.
///
/// # Errors
/// [`Error::Request`] if there are none.
pub fn document(findings: &[Value]) -> Result<Value> {
    let machine = of_kind(findings, "machine").next().cloned().unwrap_or(Value::Null);
    let mut steps = Vec::new();
    let mut open = Vec::new();
    for finding in findings.iter().filter(|finding| finding["kind"] != "machine") {
        if finding["kind"] == "step" {
            let mut step = finding.clone();
            step["findings"] = json!(std::mem::take(&mut open));
            steps.push(step);
        } else {
            open.push(finding.clone());
        }
    }
    if steps.is_empty() {
        return Err(Error::Request("no step has ended: nothing to report".into()));
    }
    Ok(json!({"machine": machine, "steps": steps}))
}

/// The findings as tables in Markdown.
pub fn markdown(findings: &[Value]) -> String {
    let mut text = String::new();
    let sections = [machine(findings), steps(findings), parity(findings), parts(findings), latency(findings)];
    sections.iter().filter(|section| !section.is_empty()).for_each(|section| {
        let _ = writeln!(text, "{section}");
    });
    text
}

fn of_kind<'a>(findings: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> + Clone {
    findings.iter().filter(move |finding| finding["kind"] == kind)
}

/// A cell: text without quotes, nothing for null.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.replace('|', "\\|")
}

fn table(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    let rule: Vec<String> = columns.iter().map(|_| "---".to_owned()).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("## {title}\n\n{}{}{rows}", line(&head), line(&rule))
}

fn machine(findings: &[Value]) -> String {
    let Some(machine) = of_kind(findings, "machine").next() else { return String::new() };
    let mut text = format!(
        "# On a device\n\nCommit {}; {} cores of {}, {}; {}, kernel {}; CUDA headers: {}.\n",
        cell(&machine["commit"]),
        machine["cores"],
        cell(&machine["cpu"]),
        cell(&machine["memory"]),
        cell(&machine["system"]),
        cell(&machine["kernel"]),
        machine["cuda_headers"].as_str().unwrap_or("none"),
    );
    let cards = machine["cards"].as_array().map_or(&[][..], Vec::as_slice);
    if cards.is_empty() {
        text.push_str("No card that `nvidia-smi` knows.\n");
    }
    for card in cards {
        let fields = card.as_object().into_iter().flatten().map(|(key, value)| format!("{key} {}", cell(value)));
        let _ = writeln!(text, "Card: {}.", fields.collect::<Vec<_>>().join(", "));
    }
    text
}

fn steps(findings: &[Value]) -> String {
    let (mut reason, mut drivers) = (String::new(), String::new());
    let mut rows = Vec::new();
    for finding in findings {
        match finding["kind"].as_str() {
            Some("not_run") => reason = cell(&finding["reason"]),
            Some("device") => {
                let names = finding["drivers"].as_array().map_or(&[][..], Vec::as_slice);
                drivers = names.iter().map(cell).fold(String::new(), |all, name| all + " " + &name);
            }
            Some("step") => {
                let result = match finding["code"].as_i64() {
                    Some(0) if drivers.is_empty() => "done".to_owned(),
                    Some(0) => format!("done, with{drivers}"),
                    _ if !reason.is_empty() => format!("not run: {}", first_line(&reason)),
                    Some(1) => "**failed**, see below".to_owned(),
                    Some(124 | 137) => "**stopped**: out of time".to_owned(),
                    _ => format!("**broke off** with code {}", finding["code"]),
                };
                rows.push(vec![cell(&finding["step"]), result, cell(&finding["seconds"])]);
                reason.clear();
                drivers.clear();
            }
            _ => {}
        }
    }
    table("Steps", &["step", "result", "seconds"], rows)
}

/// Golden cases and conversations, a row for each device and number type; what failed below.
fn parity(findings: &[Value]) -> String {
    let all = || of_kind(findings, "case").chain(of_kind(findings, "conversation"));
    let mut groups: Vec<[String; 3]> = Vec::new();
    for finding in all() {
        let group = ["kind", "device", "dtype"].map(|key| cell(&finding[key]));
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let passed = |finding: &&Value| finding["passed"] == true || finding["verdict"] == "passed";
    let row = |group: &[String; 3]| {
        let of_group = all().filter(|f| ["kind", "device", "dtype"].iter().zip(group).all(|(k, v)| cell(&f[*k]) == *v));
        let shares = of_group.clone().filter_map(|finding| finding["worst_share_of_tolerance"].as_f64());
        let worst = shares.fold(f64::NAN, f64::max);
        let names: Vec<String> = of_group.clone().filter(|f| !passed(f)).map(|f| cell(&f["case"])).collect();
        let [kind, device, dtype] = group.clone();
        let what = if kind == "case" { "golden cases" } else { "nano's conversations" };
        let count = format!("{} of {}", of_group.clone().filter(passed).count(), of_group.count());
        let worst = if worst.is_nan() { String::new() } else { format!("{worst:.2}") };
        vec![device, dtype, what.to_owned(), count, worst, names.join(", ")]
    };
    let columns = ["device", "type", "what", "passed", "worst error, of its tolerance", "not passed"];
    let mut text = table("Correctness", &columns, groups.iter().map(row).collect());
    for finding in all().filter(|finding| !passed(finding)) {
        let reason = [&finding["reason"], &finding["error"], &finding["text"]].map(cell).join(" ");
        let failed = finding["failed"].as_array().and_then(|failed| failed.first());
        let tensor = failed.map_or_else(String::new, |check| {
            let [tensor, error, tolerance] = ["tensor", "max_abs_error", "tolerance"].map(|key| cell(&check[key]));
            format!("; first `{tensor}`: {error}, tolerance {tolerance}")
        });
        let frame = finding["first_other_frame"]
            .as_u64()
            .map_or_else(String::new, |f| format!("; codes differ from frame {f}"));
        let [device, case] = ["device", "case"].map(|key| cell(&finding[key]));
        let _ = write!(text, "\n- {device}, {case}: {}{tensor}{frame}", reason.trim());
    }
    text
}

fn parts(findings: &[Value]) -> String {
    let row = |finding: &Value| {
        if let Some(error) = finding["error"].as_str() {
            let [device, dtype, part] = ["device", "dtype", "part"].map(|key| cell(&finding[key]));
            let empty = vec![String::new(); 6];
            return [vec![device, dtype, part, format!("failed: {}", first_line(error))], empty].concat();
        }
        let launches = finding["launches"].as_u64();
        let each = launches.zip(finding["median_ms"].as_f64()).filter(|(launches, _)| *launches > 0);
        let each = each.map_or_else(String::new, |(launches, ms)| format!("{:.1}", ms * 1e3 / launches as f64));
        let case = format!("{}, {}", cell(&finding["case"]), cell(&finding["per"]));
        let case = if finding["not_finite"] == true { format!("{case} (**not a finite number**)") } else { case };
        let mut cells = ["device", "dtype", "part"].map(|key| cell(&finding[key])).to_vec();
        cells.push(case);
        cells.extend(["median_ms", "min_ms", "runs", "launches"].map(|key| cell(&finding[key])));
        let none = finding["read_mb"].as_f64() == Some(0.0);
        let rate = if none { String::new() } else { format!("{} at {}", finding["read_mb"], finding["gb_per_s"]) };
        cells.extend([each, rate]);
        cells
    };
    let columns = ["device", "type", "part", "case", "ms", "least", "runs", "launches", "µs per launch", "MB at GB/s"];
    table("Parts", &columns, of_kind(findings, "part").map(row).collect())
}

fn latency(findings: &[Value]) -> String {
    let row = |finding: &Value| {
        let what = match finding["sessions"].as_u64() {
            Some(sessions) => format!("{sessions} answers at once"),
            None => cell(&finding["what"]),
        };
        let model = match finding["layers"].as_u64() {
            Some(layers) => format!("{}, {layers} layers", cell(&finding["size"])),
            None => cell(&finding["size"]),
        };
        let known = ["kind", "what", "device", "dtype", "size", "layers", "sessions", "answer"];
        let figure = |(key, value): (&String, &Value)| {
            let value = value.as_f64().map_or_else(|| cell(value), |number| rounded(number, 3).to_string());
            format!("{} {value}", key.replace('_', " "))
        };
        let fields = finding.as_object().into_iter().flatten();
        let fields = fields.filter(|(key, value)| !known.contains(&key.as_str()) && !value.is_null());
        let figures = fields.map(figure).collect::<Vec<_>>().join(", ");
        vec![cell(&finding["device"]), cell(&finding["dtype"]), model, what, figures]
    };
    let columns = ["device", "type", "model", "what", "figures"];
    table("Answers", &columns, of_kind(findings, "latency").map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"kind": "machine", "commit": "abc", "cores": 2, "cards": []}
{"kind": "case", "device": "cpu", "dtype": "f32", "case": "a", "verdict": "passed", "worst_share_of_tolerance": 0.25}
{"kind": "case", "device": "cpu", "dtype": "f32", "case": "b", "verdict": "failed", "reason": "1 of 2 comparisons",
{"kind": "case", "device": "cpu", "dtype": "f32", "case": "c", "verdict": "failed", "reason": "1 of 2", "failed": []}
{"kind": "step", "step": "parity cpu", "code": 1, "seconds": 3}
{"kind": "not_run", "reason": "there is no CUDA device 0"}
{"kind": "step", "step": "device cuda", "code": 2, "seconds": 0}
{"kind": "part", "device": "cpu", "dtype": "f32", "part": "mtp", "case": "c", "per": "frame", "median_ms": 2.0, "launches": 1000}
{"kind": "step", "step": "parts cpu", "code": 124, "seconds": 9}
"#;

    #[test]
    fn every_step_has_its_findings_and_every_failure_is_named() {
        let findings = read(LINES);
        assert_eq!(findings.len(), 8, "the line that was cut off is left out");
        let document = document(&findings).unwrap();
        let counts =
            document["steps"].as_array().unwrap().iter().map(|step| step["findings"].as_array().unwrap().len());
        assert_eq!(counts.collect::<Vec<_>>(), [2, 1, 1]);
        let text = markdown(&findings);
        for expected in [
            "Commit abc",
            "| parity cpu | **failed**, see below | 3 |",
            "| device cuda | not run: there is no CUDA device 0 | 0 |",
            "| parts cpu | **stopped**: out of time | 9 |",
            "| cpu | f32 | golden cases | 1 of 2 | 0.25 | c |",
            "- cpu, c: 1 of 2",
            "| cpu | f32 | mtp | c, frame | 2.0 |  |  | 1000 | 2.0 |",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(super::document(&[]).is_err());
    }
}
