//! Ways to damage an input.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// A damaged copy of an input: JSON mostly at its values, anything else at its bytes.
pub fn damaged(seed: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    if let Ok(mut json) = serde_json::from_slice::<Value>(seed)
        && random.random_range(0..4) > 0
    {
        for _ in 0..random.random_range(1..4) {
            damage_value(&mut json, random);
        }
        return json.to_string().into_bytes();
    }
    let mut bytes = seed.to_vec();
    for _ in 0..1 << random.random_range(0..5) {
        damage_bytes(&mut bytes, random);
    }
    qwen3_omni_testkit::repair_ogg(&mut bytes);
    repair_png(&mut bytes);
    bytes
}

fn damage_bytes(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    if bytes.is_empty() {
        return;
    }
    // Headers are at the front of most formats.
    let reach = if random.random() { bytes.len() } else { bytes.len().min(200) };
    let at = random.random_range(0..reach);
    let span = random.random_range(1..=(bytes.len() - at).min(64));
    match random.random_range(0..7) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())];
            let order = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
            let width = (bytes.len() - at).min(4);
            bytes[at..at + width].copy_from_slice(&order[..width]);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + span)),
        5 => {
            let copy = bytes[at..at + span].to_vec();
            let to = random.random_range(0..=bytes.len());
            bytes.splice(to..to, copy);
        }
        _ => bytes[at..at + span].fill(random.random()),
    }
}

/// Replaces one value somewhere in a JSON tree.
fn damage_value(value: &mut Value, random: &mut ChaCha8Rng) {
    match value {
        Value::Object(members) if !members.is_empty() && random.random_range(0..12) > 0 => {
            let index = random.random_range(0..members.len());
            if let Some(member) = members.values_mut().nth(index) {
                damage_value(member, random);
            }
        }
        Value::Array(items) if !items.is_empty() && random.random_range(0..6) > 0 => {
            let index = random.random_range(0..items.len());
            damage_value(&mut items[index], random);
        }
        other => *other = strange(other, random),
    }
}

fn strange(value: &Value, random: &mut ChaCha8Rng) -> Value {
    let number = value.as_f64().unwrap_or(1.0);
    let choices = [
        json!(0),
        json!(1),
        json!(-1),
        json!(3),
        json!(1_000_000),
        json!(u32::MAX),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(-1e-300),
        json!(number * 2.0),
        json!((number as i64).wrapping_add(1)),
        json!((number as i64).wrapping_mul(1000)),
        json!(true),
        Value::Null,
        json!(""),
        json!("\u{0}\u{fdd0}"),
        json!("x".repeat(10_000)),
        json!([]),
        json!([0, -1, 1e9]),
        json!({}),
        json!([[[[]]]]),
    ];
    choices[random.random_range(0..choices.len())].clone()
}

/// Computes the checksums of all chunks of a PNG file anew.
fn repair_png(bytes: &mut [u8]) {
    if !bytes.starts_with(b"\x89PNG") {
        return;
    }
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes) {
        let Some(end) = at.checked_add(8).and_then(|start| start.checked_add(length as usize)) else { return };
        if end + 4 > bytes.len() {
            return;
        }
        let sum = !bytes[at + 4..end].iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
        });
        bytes[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}
