//! What a line asks for.

/// The commands of a conversation.
pub const HELP: &str = "\
Type a message and press Enter. Ctrl-C cancels an answer.
  /add FILE   a picture, recording or video for the next message; Enter alone asks with the files alone
  /drop       takes those files back
  /undo       forgets the last message and its answer
  /reset      forgets the conversation
  /quit       leaves, as does Ctrl-D";

/// A line of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Say(&'a str),
    Add(&'a str),
    Drop,
    Undo,
    Reset,
    Help,
    Quit,
    Unknown(&'a str),
}

impl<'a> Request<'a> {
    /// Reads a line. A message may begin with a slash if a space follows it.
    pub fn of(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/').filter(|rest| !rest.starts_with(char::is_whitespace)) else {
            return Self::Say(line);
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, unquoted(rest.trim())) {
            ("add", file) if !file.is_empty() => Self::Add(file),
            ("drop", "") => Self::Drop,
            ("undo", "") => Self::Undo,
            ("reset", "") => Self::Reset,
            ("help", "") => Self::Help,
            ("quit" | "exit", "") => Self::Quit,
            _ => Self::Unknown(line),
        }
    }
}

/// A file name without the quotes that terminals put around names they paste.
fn unquoted(name: &str) -> &str {
    let inner = |quote: char| name.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        for (line, expected) in [
            ("what is it?", Request::Say("what is it?")),
            ("  ", Request::Say("")),
            ("/ is a slash", Request::Say("/ is a slash")),
            ("/add my cat.png", Request::Add("my cat.png")),
            ("/add '/tmp/my cat.png' ", Request::Add("/tmp/my cat.png")),
            ("/add", Request::Unknown("/add")),
            ("/undo", Request::Undo),
            ("/reset now", Request::Unknown("/reset now")),
            ("/etc/hosts", Request::Unknown("/etc/hosts")),
            ("/exit", Request::Quit),
        ] {
            assert_eq!(Request::of(line), expected, "{line}");
        }
    }
}
