//! Lines from a terminal, edited and remembered, or from standard input.

use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::path::PathBuf;

use qwen3_omni::{Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// Where lines come from.
pub enum Input {
    /// A terminal, and the file of its history.
    Editor(Box<DefaultEditor>, Option<PathBuf>),
    /// A pipe or a file.
    Plain,
}

/// What came.
pub enum Line {
    Text(String),
    Interrupted,
    End,
}

impl Input {
    /// Opens the terminal, if somebody sits at both of its ends.
    pub fn open() -> Self {
        if !(stdin().is_terminal() && stdout().is_terminal()) {
            return Self::Plain;
        }
        let Ok(mut editor) = DefaultEditor::new() else { return Self::Plain };
        let history = dirs::data_local_dir().map(|data| data.join("qwen3-omni").join("history.txt"));
        if let Some(history) = &history {
            // There is none before the first conversation.
            let _ = editor.load_history(history);
        }
        Self::Editor(Box::new(editor), history)
    }

    /// Whether somebody sits at the terminal.
    pub fn is_watched(&self) -> bool {
        matches!(self, Self::Editor(..))
    }

    /// The next line; the prompt says how many files wait for it.
    ///
    /// # Errors
    /// [`Error::Io`] if standard input cannot be read.
    pub fn next(&mut self, files: usize) -> Result<Line> {
        let failed = |source| Error::io("standard input", source);
        let Self::Editor(editor, _) = self else {
            let line = stdin().lock().lines().next().transpose().map_err(failed)?;
            return Ok(line.map_or(Line::End, Line::Text));
        };
        let prompt = if files == 0 { "you> ".to_owned() } else { format!("you, with {files} files> ") };
        match editor.readline(&prompt) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    // The chat goes on even if its history cannot be saved.
                    let _ = editor.add_history_entry(&line);
                }
                Ok(Line::Text(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Io(source)) => Err(failed(source)),
            Err(error) => Err(failed(std::io::Error::other(error))),
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let Self::Editor(editor, Some(history)) = self else { return };
        if let Some(folder) = history.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = editor.save_history(history);
    }
}
