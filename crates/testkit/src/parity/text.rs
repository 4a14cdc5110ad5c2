use omni_core::{Error, Result};
use qwen3_omni::{ChatTemplate, TemplateOptions, Tokenizer};
use serde_json::Value;

use super::case::Case;
use super::model::Model;

fn list(case: &Case) -> Result<Vec<Value>> {
    let cases = case.json().as_array().filter(|cases| !cases.is_empty()).cloned();
    cases.ok_or_else(|| Error::Request(format!("`{}` should be a list of cases", case.name())))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().filter_map(|id| Some(id.as_u64()? as u32)).collect()
}

/// Compares text to ids, and ids to text with and without special tokens.
pub(super) fn tokenizer(model: &Model, case: &mut Case) -> Result<()> {
    let tokenizer = Tokenizer::from_directory(&model.directory)?;
    for (index, entry) in list(case)?.iter().enumerate() {
        let expected = ids(&entry["ids"]);
        let found = tokenizer.encode(entry["text"].as_str().unwrap_or_default())?;
        case.compare_text(&format!("{index}.ids"), &format!("{found:?}"), &format!("{expected:?}"));
        for (key, skip) in [("decoded", false), ("decoded_skip_special", true)] {
            if let Some(text) = entry[key].as_str() {
                case.compare_text(&format!("{index}.{key}"), &tokenizer.decode(&expected, skip), text);
            }
        }
    }
    Ok(())
}

/// Compares conversations to prompts, and prompts to ids.
pub(super) fn template(model: &Model, case: &mut Case) -> Result<()> {
    let template = ChatTemplate::from_directory(&model.directory)?;
    let tokenizer = Tokenizer::from_directory(&model.directory)?;
    for entry in list(case)? {
        let name = entry["name"].as_str().unwrap_or("?").to_owned();
        let options = TemplateOptions::default()
            .tools(entry["tools"].as_array().cloned().unwrap_or_default())
            .add_generation_prompt(entry["add_generation_prompt"].as_bool().unwrap_or(false))
            .enable_thinking(entry["enable_thinking"].as_bool());
        let rendered = template.render(&entry["messages"], &options)?;
        case.compare_text(&format!("{name}.rendered"), &rendered, entry["rendered"].as_str().unwrap_or_default());
        if entry["ids"].is_array() {
            let found = tokenizer.encode(&rendered)?;
            case.compare_text(&format!("{name}.ids"), &format!("{found:?}"), &format!("{:?}", ids(&entry["ids"])));
        }
    }
    Ok(())
}
