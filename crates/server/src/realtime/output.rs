//! Events to the client.

use std::cell::Cell;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::error::ApiError;
use crate::ids;
use crate::outbox::{Outbox, Output};

/// Sends events, each with an id of its own; a slow client is waited for.
pub(super) struct Emitter {
    outbox: Outbox,
    runtime: Handle,
    gone: Cell<bool>,
}

impl Emitter {
    pub(super) fn new(outbox: Outbox) -> Self {
        Self { outbox, runtime: Handle::current(), gone: Cell::new(false) }
    }

    /// Whether the client has gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    fn send(&self, output: Output) {
        if self.outbox.blocking_send(&self.runtime, output).is_err() {
            self.gone.set(true);
        }
    }

    /// Sends an event with these fields.
    pub(super) fn emit(&self, kind: &str, mut fields: Value) {
        fields["type"] = json!(kind);
        fields["event_id"] = json!(ids::new("event_"));
        self.send(Output::Event(fields.to_string()));
    }

    /// Sends an error that the client's event of this id caused.
    pub(super) fn error(&self, error: &ApiError, cause: Option<&str>) {
        let mut told = error.to_json();
        told["event_id"] = json!(cause);
        self.emit("error", json!({ "error": told }));
    }

    pub(super) fn close(&self, code: u16, reason: &'static str) {
        self.send(Output::Close(code, reason));
        self.gone.set(true);
    }
}
