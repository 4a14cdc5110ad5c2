use std::collections::BTreeMap;

use omni_core::{Error, Result};

/// The codec id of a voice; names are matched without regard to case.
///
/// # Errors
/// [`Error::Request`] listing the known voices.
pub fn speaker_id(speakers: &BTreeMap<String, u32>, name: &str) -> Result<u32> {
    let wanted = name.to_lowercase();
    let found = speakers.iter().find(|(known, _)| known.to_lowercase() == wanted);
    found.map(|(_, id)| *id).ok_or_else(|| {
        let known: Vec<&str> = speakers.keys().map(String::as_str).collect();
        Error::Request(format!("unknown speaker `{name}`: this checkpoint knows {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_in_any_case_and_unknown_ones_list_the_known() {
        let speakers = BTreeMap::from([("ethan".to_owned(), 5), ("chelsie".to_owned(), 6)]);
        assert_eq!(speaker_id(&speakers, "Ethan").unwrap(), 5);
        let message = speaker_id(&speakers, "Bob").unwrap_err().to_string();
        assert!(message.contains("Bob") && message.contains("chelsie, ethan"), "{message}");
    }
}
