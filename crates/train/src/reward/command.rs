use std::io::Write;
use std::process::{Command, Stdio};

use super::Reward;
use crate::data::Line;
use crate::{Error, Result};

/// A program of one's own: it is given one JSON object on its standard input, `{"messages": …, "extra": …, "answers": [TEXT, …]}`, and
/// prints one number for each answer.
#[derive(Debug, Clone)]
pub struct CommandReward {
    program: String,
    arguments: Vec<String>,
}

impl CommandReward {
    /// Takes a program and its arguments, as a shell would split them.
    ///
    /// # Errors
    /// [`Error::Option`] for an empty command or one with an open quote.
    pub fn new(command: &str) -> Result<Self> {
        let mut words = shlex::split(command).unwrap_or_default().into_iter();
        let program = words.next().ok_or_else(|| Error::Option {
            name: "reward_command",
            reason: format!("`{command}`, expected a program and its arguments"),
        })?;
        Ok(Self { program, arguments: words.collect() })
    }

    /// Hands the program its input; returns what it printed.
    fn ask(&self, input: &[u8]) -> std::io::Result<std::process::Output> {
        let mut program = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        if let Some(mut stdin) = program.stdin.take() {
            // A program that does not read all of it may still answer.
            let _ = stdin.write_all(input);
        }
        program.wait_with_output()
    }
}

impl Reward for CommandReward {
    fn score(&self, line: &Line, answers: &[String]) -> Result<Vec<f64>> {
        let input = serde_json::json!({"messages": line.messages, "extra": line.extra, "answers": answers});
        let failed =
            |reason: &dyn std::fmt::Display| line.location.refuse(format!("reward by `{}`: {reason}", self.program));
        let output = self.ask(input.to_string().as_bytes()).map_err(|error| failed(&error))?;
        if !output.status.success() {
            return Err(failed(&output.status));
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let numbers = printed.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
        numbers.map_err(|_| failed(&format!("printed `{}`, expected numbers", printed.trim())))
    }
}
