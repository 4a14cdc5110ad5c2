//! The items of a conversation, and the messages that the model reads of them.

use std::sync::Arc;

use qwen3_omni::{Message, Reply, Role};
use serde_json::json;

use super::item::{Content, Item, say};
use super::weight;
use crate::error::{ApiError, ApiResult};
use crate::fields::brief;

/// All items, in order. A copy of the list shares its items until they are changed.
#[derive(Clone, Default)]
pub(super) struct Items {
    list: Vec<Arc<Item>>,
}

/// Items of a conversation.
const MOST_ITEMS: usize = 4096;
/// Bytes of all items together.
const MOST_BYTES: usize = 256 << 20;

fn unknown(param: &str, id: &str) -> ApiError {
    ApiError::invalid(param, format_args!("there is no item `{}`", brief(id))).code("item_not_found")
}

impl Items {
    /// Puts an item behind another one, or at the end; `root` means the beginning. Returns the id of the item before it.
    ///
    /// # Errors
    /// An id that is taken, or one that is not there.
    pub(super) fn insert(&mut self, item: Item, previous: Option<&str>) -> ApiResult<Option<String>> {
        if self.list.iter().any(|known| known.id == item.id) {
            return Err(ApiError::invalid("item.id", format_args!("there is an item `{}` already", brief(&item.id))));
        }
        self.check_room(Some(&item))?;
        let at = match previous {
            None => self.list.len(),
            Some("root") => 0,
            Some(id) => self.position(id, "previous_item_id")? + 1,
        };
        Ok(self.insert_at(at, item))
    }

    /// Puts an item of an answer behind the one that was the last when it was asked for; at the end if that was removed. For these there is
    /// room if there was some for the answer. Returns the id of the item before it.
    pub(super) fn insert_answer(&mut self, item: Item, after: Option<&str>) -> Option<String> {
        let behind = |id: &str| self.list.iter().position(|known| known.id == id).map_or(self.list.len(), |at| at + 1);
        self.insert_at(after.map_or(0, behind), item)
    }

    fn insert_at(&mut self, at: usize, item: Item) -> Option<String> {
        let before = at.checked_sub(1).map(|before| self.list[before].id.clone());
        self.list.insert(at, Arc::new(item));
        before
    }

    /// Refuses an item, or an answer, beyond what a session may hold.
    ///
    /// # Errors
    /// 400 `conversation_full`.
    pub(super) fn check_room(&self, item: Option<&Item>) -> ApiResult<()> {
        let bytes = self.list.iter().map(Arc::as_ref).chain(item).map(weight::of_item).sum::<usize>();
        match bytes > MOST_BYTES || self.list.len() >= MOST_ITEMS {
            true => {
                Err(ApiError::invalid("item", "the conversation is full; delete items first").code("conversation_full"))
            }
            false => Ok(()),
        }
    }

    fn position(&self, id: &str, param: &str) -> ApiResult<usize> {
        self.list.iter().position(|item| item.id == id).ok_or_else(|| unknown(param, id))
    }

    /// # Errors
    /// An id that is not there.
    pub(super) fn get(&self, id: &str) -> ApiResult<&Item> {
        Ok(&self.list[self.position(id, "item_id")?])
    }

    /// # Errors
    /// An id that is not there.
    pub(super) fn get_mut(&mut self, id: &str) -> ApiResult<&mut Item> {
        let at = self.position(id, "item_id")?;
        Ok(Arc::make_mut(&mut self.list[at]))
    }

    /// # Errors
    /// An id that is not there.
    pub(super) fn remove(&mut self, id: &str) -> ApiResult<()> {
        let at = self.position(id, "item_id")?;
        self.list.remove(at);
        Ok(())
    }

    /// The id of the item before this one.
    pub(super) fn before(&self, id: &str) -> Option<String> {
        let at = self.list.iter().position(|item| item.id == id)?;
        Some(self.list[at.checked_sub(1)?].id.clone())
    }

    /// Puts an item in the place of that with its id, unless that was removed meanwhile.
    pub(super) fn replace(&mut self, item: Item) {
        if let Some(place) = self.list.iter_mut().find(|known| known.id == item.id) {
            *place = Arc::new(item);
        }
    }

    /// A copy of an item, for an answer outside the conversation.
    ///
    /// # Errors
    /// An id that is not there.
    pub(super) fn copy(&self, id: &str, param: &str) -> ApiResult<Item> {
        Ok(Item::clone(&self.list[self.position(id, param)?]))
    }

    /// Keeps the whole answer that an item holds the words of.
    pub(super) fn keep_reply(&mut self, id: &str, reply: Box<Reply>) {
        if let Ok(Item { content: Content::Answer(answer), .. }) = self.get_mut(id) {
            answer.reply = Some(reply);
        }
    }

    /// Cuts an answer to the words that were heard of it, if it is here.
    pub(super) fn cut(&mut self, id: &str, heard: &str) {
        if let Ok(Item { content: Content::Answer(answer), .. }) = self.get_mut(id) {
            heard.clone_into(&mut answer.text);
        }
    }

    /// Keeps what was said in a spoken turn.
    pub(super) fn keep_transcript(&mut self, id: &str, text: &str) {
        if let Ok(Item { content: Content::Said { parts, .. }, .. }) = self.get_mut(id)
            && let Some(part) = parts.iter_mut().find(|part| part["type"] == "input_audio")
        {
            part["transcript"] = json!(text);
        }
    }

    /// The id of the last item.
    pub(super) fn last(&self) -> Option<&str> {
        self.list.last().map(|item| item.id.as_str())
    }

    /// What the model reads.
    pub(super) fn messages(&self, instructions: &str) -> Vec<Message> {
        // Without instructions there is no system turn, which a model may never have been taught.
        let mut messages: Vec<Message> =
            Some(instructions).filter(|text| !text.is_empty()).map(Message::system).into_iter().collect();
        self.list.iter().for_each(|item| item.add_to(&mut messages));
        messages
    }

    /// What the model is to answer. Models were taught to answer users and functions: behind the last of these an answer is given anew, and
    /// what the system said last, be it the instructions alone, is put to it as a user's turn.
    ///
    /// # Errors
    /// A function whose output is missing, and a conversation with nothing in it.
    pub(super) fn question(&self, instructions: &str) -> ApiResult<Vec<Message>> {
        let mut messages = self.messages(instructions);
        let is_answer = |last: &mut Message| last.role() == Role::Assistant && last.tool_calls().is_empty();
        while messages.pop_if(is_answer).is_some() {}
        if let Some(said) = messages.pop_if(|last| last.role() == Role::System) {
            say(&mut messages, &said);
        }
        match messages.last().map(Message::role) {
            Some(Role::Assistant) => {
                let missing = "the last function call has no output yet; add a function_call_output item";
                Err(ApiError::invalid("response", missing))
            }
            None => Err(ApiError::invalid("response", "there is nothing to answer; add an item or give instructions")),
            Some(_) => Ok(messages),
        }
    }
}

#[cfg(test)]
impl Items {
    /// A conversation that holds as many items as it may.
    pub(super) fn full() -> Self {
        let call_output = |index: usize| Item {
            id: index.to_string(),
            status: super::item::COMPLETED,
            content: Content::CallOutput { call_id: String::new(), output: String::new() },
        };
        Self { list: (0..MOST_ITEMS).map(call_output).map(Arc::new).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::item::{COMPLETED, SpokenAnswer};

    fn said(id: &str, message: Message) -> Item {
        Item { id: id.into(), status: COMPLETED, content: Content::Said { message, parts: Vec::new() } }
    }

    fn answer(id: &str, text: &str) -> Item {
        let answer = SpokenAnswer { text: text.into(), ..SpokenAnswer::default() };
        Item { id: id.into(), status: COMPLETED, content: Content::Answer(answer) }
    }

    #[test]
    fn turns_alternate_and_what_was_not_heard_is_no_turn() {
        let mut items = Items::default();
        let call = Content::Call { call_id: "c".into(), name: "look".into(), arguments: json!({}) };
        let output = Content::CallOutput { call_id: "c".into(), output: "red".into() };
        for item in [
            said("a", Message::user().text("one")),
            answer("b", ""),
            said("c", Message::user().text("two")),
            answer("d", "three"),
            Item { id: "e".into(), status: COMPLETED, content: call },
            Item { id: "f".into(), status: COMPLETED, content: output },
        ] {
            items.insert(item, None).unwrap();
        }
        let messages = items.messages("be kind");
        let roles: Vec<&str> = messages.iter().map(|message| message.role().name()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert_eq!((messages[1].parts().len(), messages[2].tool_calls().len()), (2, 1));
        assert_eq!(items.messages("")[0].role(), Role::User);
    }

    #[test]
    fn items_stand_where_they_were_put() {
        let mut items = Items::default();
        assert_eq!(items.insert(answer("a", ""), None).unwrap(), None);
        assert_eq!(items.insert(answer("c", ""), None).unwrap().as_deref(), Some("a"));
        assert_eq!(items.insert(answer("b", ""), Some("a")).unwrap().as_deref(), Some("a"));
        assert_eq!(items.insert(answer("0", ""), Some("root")).unwrap(), None);
        assert_eq!(items.insert(answer("0", ""), None).unwrap_err().param.as_deref(), Some("item.id"));
        assert_eq!(items.insert(answer("d", ""), Some("x")).unwrap_err().param.as_deref(), Some("previous_item_id"));
        items.remove("b").unwrap();
        assert_eq!(items.remove("b").unwrap_err().param.as_deref(), Some("item_id"));
        assert_eq!(items.last(), Some("c"));
    }

    #[test]
    fn a_full_conversation_takes_no_item_and_no_answer() {
        let mut items = Items::full();
        items.remove("0").unwrap();
        items.insert(answer("last", ""), None).unwrap();
        for refused in [items.insert(answer("more", ""), None).map(drop), items.check_room(None)] {
            assert_eq!(refused.unwrap_err().code, "conversation_full");
        }
    }
}
