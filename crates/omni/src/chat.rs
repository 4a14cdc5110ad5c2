use omni_core::{Error, Result};
use serde_json::{Value, json};

/// Who speaks in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the model.
    System,
    /// The person.
    User,
    /// The model, in an earlier turn.
    Assistant,
    /// The result of a function the model called.
    Tool,
}

impl Role {
    /// The name the chat template knows.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// Text.
    Text(String),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    role: Role,
    parts: Vec<Part>,
    tool_calls: Vec<Value>,
}

impl Message {
    /// Instructions for the model.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System).text(text)
    }

    /// An empty user turn, to be filled with parts.
    pub fn user() -> Self {
        Self::new(Role::User)
    }

    /// What the model said in an earlier turn.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant).text(text)
    }

    /// The result of a function the model called.
    pub fn tool(result: impl Into<String>) -> Self {
        Self::new(Role::Tool).text(result)
    }

    /// An empty turn of any role.
    pub fn new(role: Role) -> Self {
        Self { role, parts: Vec::new(), tool_calls: Vec::new() }
    }

    /// Adds text.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.parts.push(Part::Text(text.into()));
        self
    }

    /// Adds a function call the model made in this turn.
    pub fn tool_call(mut self, name: impl Into<String>, arguments: Value) -> Self {
        self.tool_calls.push(json!({"name": name.into(), "arguments": arguments}));
        self
    }

    /// Who speaks.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn is_empty(&self) -> bool {
        self.tool_calls.is_empty() && self.parts.iter().all(|Part::Text(text)| text.is_empty())
    }

    fn to_json(&self) -> Value {
        let text: String = self.parts.iter().map(|Part::Text(text)| text.as_str()).collect();
        let mut message = json!({"role": self.role.name(), "content": text});
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = Value::Array(self.tool_calls.clone());
        }
        message
    }
}

/// Checks a conversation and puts it into the form chat templates take.
///
/// # Errors
/// [`Error::Request`] if there is nothing to answer.
pub(crate) fn conversation(messages: &[Message]) -> Result<Value> {
    let refuse = |reason: String| Err(Error::Request(reason));
    let Some(last) = messages.last() else {
        return refuse("the conversation is empty: expected at least one user message".into());
    };
    if let Some(index) = messages.iter().position(Message::is_empty) {
        let role = messages[index].role.name();
        return refuse(format!("message {} ({role}) is empty: expected at least one part with content", index + 1));
    }
    if !matches!(last.role, Role::User | Role::Tool) {
        let role = last.role.name();
        return refuse(format!(
            "the conversation ends with a turn of `{role}`: expected a user or tool message to answer"
        ));
    }
    Ok(messages.iter().map(Message::to_json).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_without_a_question_are_refused_with_the_reason() {
        let hello = || Message::user().text("hello");
        let cases = [
            (vec![], "is empty"),
            (vec![hello(), Message::user()], "message 2 (user) is empty"),
            (vec![Message::user().text("")], "message 1 (user) is empty"),
            (vec![hello(), Message::assistant("hi")], "`assistant`"),
            (vec![Message::system("be kind")], "`system`"),
        ];
        for (messages, expected) in cases {
            let message = conversation(&messages).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
