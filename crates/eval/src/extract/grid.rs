use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Deserializer, Map, Value};

/// The solution of a logic puzzle: a value by house and attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid(pub BTreeMap<String, BTreeMap<String, String>>);

impl Grid {
    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Number of cells that another grid has, too; letter case does not count.
    pub fn shared(&self, other: &Self) -> usize {
        let is_shared = |house: &String, name: &String, value: &String| {
            let there = other.0.get(house).and_then(|attributes| attributes.get(name));
            there.is_some_and(|there| there.trim().to_lowercase() == value.trim().to_lowercase())
        };
        let count = |(house, attributes): (&String, &BTreeMap<String, String>)| {
            attributes.iter().filter(|(name, value)| is_shared(house, name, value)).count()
        };
        self.0.iter().map(count).sum()
    }
}

/// Finds the solution of a puzzle in a text: `solution` of the last JSON object that has one, `{"House 1": {"Name": "Eric", …}, …}`.
/// Where a value is a list, its first element is taken.
pub fn grid(text: &str) -> Option<Grid> {
    let objects = objects(text);
    let solution = objects.iter().rev().find_map(|object| object.get("solution")?.as_object())?;
    Some(Grid(solution.iter().filter_map(|(house, row)| Some((house.clone(), attributes(row)?))).collect()))
}

fn attributes(row: &Value) -> Option<BTreeMap<String, String>> {
    let cells = row.as_object()?.iter();
    Some(cells.filter_map(|(name, value)| Some((name.clone(), cell(value)?))).collect())
}

fn cell(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(values) => cell(values.first()?),
        _ => None,
    }
}

/// The complete JSON objects of a text, outermost ones only.
fn objects(text: &str) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(begin) = text[at..].find('{').map(|offset| at + offset) {
        let mut values = Deserializer::from_str(&text[begin..]).into_iter::<Map<String, Value>>();
        match values.next() {
            Some(Ok(object)) => {
                found.push(object);
                at = begin + values.byte_offset();
            }
            _ => at = begin + 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_solution_counts_and_cells_are_compared() {
        let text = r#"First {"solution": {"House 1": {"Name": "Bob"}}}, {broken, then
            ```json
            {"reasoning": "so {it} is", "solution": {"House 1": {"Name": "Eric ", "Pet": ["cat"]}, "House 2": {"Name": "Ann", "Pet": null}}}
            ```"#;
        let found = grid(text).unwrap();
        assert_eq!((found.cells(), found.0["House 1"]["Pet"].as_str()), (3, "cat"));
        let right = grid(
            r#"{"solution": {"House 1": {"Name": "eric", "Pet": "dog"}, "House 2": {"Name": "Ann", "Pet": "cat"}}}"#,
        );
        assert_eq!(right.unwrap().shared(&found), 2);
    }

    #[test]
    fn a_text_without_solution_has_none() {
        for text in ["", "no JSON", "{", r#"{"solution": 3}"#, r#"{"answer": {}}"#] {
            assert_eq!(grid(text), None, "{text}");
        }
    }
}
