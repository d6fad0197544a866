//! Documents as text that is edited, and sealed and signed again.

use ed25519_dalek::Signer;
use sha2::{Digest as _, Sha256};

use crate::feeds::{Key, Objects};

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn record_name(version: u64) -> String {
    format!("log/{version:020}.json")
}

/// The payload of an object of a feed.
pub fn payload(objects: &Objects, name: &str) -> String {
    let line = objects[name].split(|byte| *byte == b'\n').next().unwrap();
    String::from_utf8(line.to_vec()).unwrap()
}

/// The digest of a record.
pub fn digest(objects: &Objects, version: u64) -> String {
    sha256(payload(objects, &record_name(version)).as_bytes())
}

pub fn signature(payload: &str, key: Key) -> String {
    let signed = ["pulse-feed-1\n", payload].concat();
    hex::encode(key.signing().sign(signed.as_bytes()).to_bytes())
}

fn entry(key: &str, signature: &str) -> String {
    format!(r#"{{"key":"{key}","signature":"{signature}"}}"#)
}

/// A document with signatures that may be any: keys and signatures in hexadecimal digits.
pub fn sealed_with(payload: &str, signatures: &[(String, String)]) -> Vec<u8> {
    let entries: Vec<String> = signatures.iter().map(|(key, text)| entry(key, text)).collect();
    let sha256 = sha256(payload.as_bytes());
    let seal = format!(r#"{{"sha256":"{sha256}","signatures":[{}]}}"#, entries.join(","));
    format!("{payload}\n{seal}\n").into_bytes()
}

/// A document that these keys sign.
pub fn sealed(payload: &str, keys: &[Key]) -> Vec<u8> {
    let signed = keys.iter().map(|key| (key.public(), signature(payload, *key)));
    sealed_with(payload, &signed.collect::<Vec<_>>())
}

/// Where the value of the first field of this name is.
fn span(payload: &str, field: &str) -> std::ops::Range<usize> {
    let name = format!("\"{field}\":");
    let start =
        payload.find(&name).unwrap_or_else(|| panic!("no {field} in {payload}")) + name.len();
    let (mut depth, mut in_text) = (0, false);
    for (at, byte) in payload.bytes().enumerate().skip(start) {
        match byte {
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b',' | b'}' | b']' if !in_text && depth == 0 => return start..at,
            b'}' | b']' if !in_text => depth -= 1,
            _ => {}
        }
    }
    panic!("{field} has no end in {payload}");
}

/// The value of the first field of this name, as JSON.
pub fn get<'a>(payload: &'a str, field: &str) -> &'a str {
    &payload[span(payload, field)]
}

/// The text that is the value of a field.
pub fn text(payload: &str, field: &str) -> String {
    get(payload, field).trim_matches('"').to_string()
}

/// The same with another value, in JSON.
pub fn set(payload: &str, field: &str, value: &str) -> String {
    let span = span(payload, field);
    [&payload[..span.start], value, &payload[span.end..]].concat()
}

/// The same with a field inside of another one changed.
pub fn set_in(payload: &str, outer: &str, field: &str, value: &str) -> String {
    set(payload, outer, &set(get(payload, outer), field, value))
}

/// The same without a field that is not the last.
pub fn remove(payload: &str, field: &str) -> String {
    let span = span(payload, field);
    let start = span.start - field.len() - 3;
    [&payload[..start], payload[span.end..].trim_start_matches(',')].concat()
}

/// The same with more fields at its end.
pub fn add(payload: &str, fields: &str) -> String {
    format!("{},{fields}}}", payload.strip_suffix('}').unwrap())
}

/// JSON of a text.
pub fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// A name of no other object.
pub fn data_name(version: u64) -> String {
    format!("data/{version:020}-00000000deadbeef")
}

/// A data field.
pub fn data(object: &str, bytes: &[u8]) -> String {
    let (sha256, size) = (sha256(bytes), bytes.len());
    format!(r#"{{"object":"{object}","sha256":"{sha256}","bytes":{size},"format":1}}"#)
}
