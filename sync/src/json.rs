//! JSON that can be read in one way only: whole numbers, no key twice, nothing left over (FEED.md §2).

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Beyond this, programs that read numbers as floats see other ones.
pub(crate) const INTEGER_MAX: u64 = 1 << 53;
const DEPTH_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(u64),
    Text(String),
    List(Vec<Value>),
    Object(Object),
}

/// An object, of which fields are asked for by name. What is asked for and is not there, or is of another
/// type, is told in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Object(BTreeMap<String, Value>);

pub(crate) type Result<T, E = String> = std::result::Result<T, E>;

impl Object {
    pub fn parse(line: &[u8]) -> Result<Self> {
        let mut parser = serde_json::Deserializer::from_slice(line);
        let value =
            Nested(DEPTH_MAX).deserialize(&mut parser).map_err(|error| error.to_string())?;
        parser.end().map_err(|error| error.to_string())?;
        match value {
            Value::Object(object) => Ok(object),
            _ => Err("it is no JSON object".into()),
        }
    }

    fn find<T>(
        &self,
        name: &str,
        what: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| format!("field '{name}' is not {what}"))
    }

    pub fn optional_text(&self, name: &str) -> Result<Option<&str>> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        match value {
            Value::Text(text) => Ok(Some(text)),
            _ => Err(format!("field '{name}' is not a string")),
        }
    }

    pub fn text(&self, name: &str) -> Result<&str> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    pub fn optional_integer(&self, name: &str) -> Result<Option<u64>> {
        self.find(name, "a whole number", |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
    }

    pub fn integer(&self, name: &str) -> Result<u64> {
        self.optional_integer(name)?.ok_or_else(|| missing(name))
    }

    /// `N` bytes as lower-case hexadecimal digits.
    pub fn optional_hex<const N: usize>(&self, name: &str) -> Result<Option<[u8; N]>> {
        self.find(name, &format!("{} hexadecimal digits in lower case", 2 * N), |value| match value
        {
            Value::Text(text) => from_hex(text),
            _ => None,
        })
    }

    pub fn hex<const N: usize>(&self, name: &str) -> Result<[u8; N]> {
        self.optional_hex(name)?.ok_or_else(|| missing(name))
    }

    pub fn optional_true(&self, name: &str) -> Result<bool> {
        let found = self.find(name, "true", |value| (*value == Value::Bool(true)).then_some(true));
        Ok(found?.unwrap_or(false))
    }

    pub fn optional_object(&self, name: &str) -> Result<Option<&Object>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(format!("field '{name}' is not an object")),
        }
    }

    pub fn object(&self, name: &str) -> Result<&Object> {
        self.optional_object(name)?.ok_or_else(|| missing(name))
    }

    pub fn list(&self, name: &str) -> Result<&[Value]> {
        match self.0.get(name) {
            Some(Value::List(values)) => Ok(values),
            Some(_) => Err(format!("field '{name}' is not an array")),
            None => Err(missing(name)),
        }
    }
}

fn missing(name: &str) -> String {
    format!("field '{name}' is missing")
}

/// The bytes that lower-case hexadecimal digits stand for.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !text.bytes().any(|digit| digit.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// A value within so many levels.
struct Nested(usize);

impl<'de> DeserializeSeed<'de> for Nested {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Nested {
    fn deeper<E: serde::de::Error>(&self) -> Result<usize, E> {
        self.0.checked_sub(1).ok_or_else(|| E::custom("it is nested too deeply"))
    }
}

impl<'de> Visitor<'de> for Nested {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with whole numbers up to 2^53")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > INTEGER_MAX {
            return Err(E::custom(format!("{value} is above 2^53")));
        }
        Ok(Value::Integer(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = values.next_element_seed(Nested(depth))? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut object = BTreeMap::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(Nested(depth))?;
            if object.insert(name.clone(), value).is_some() {
                return Err(A::Error::custom(format!("field '{name}' is there twice")));
            }
        }
        Ok(Value::Object(Object(object)))
    }
}

/// Writes an object, field by field in the order of the tables of FEED.md.
#[derive(Debug)]
pub(crate) struct Writer(String);

impl Writer {
    pub fn new() -> Self {
        Writer("{".into())
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// What is JSON already.
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        self.name(name);
        self.0.push_str(json);
        self
    }

    /// A text without anything that JSON escapes.
    pub fn text(self, name: &str, text: &str) -> Self {
        debug_assert!(!text.contains(['"', '\\']) && text.chars().all(|c| !c.is_control()));
        self.raw(name, &format!("\"{text}\""))
    }

    pub fn hex(self, name: &str, bytes: &[u8]) -> Self {
        self.text(name, &hex::encode(bytes))
    }

    pub fn integer(self, name: &str, value: u64) -> Self {
        self.raw(name, &value.to_string())
    }

    pub fn texts<'a>(self, name: &str, texts: impl Iterator<Item = &'a String>) -> Self {
        let list: Vec<String> = texts.map(|text| format!("\"{text}\"")).collect();
        self.raw(name, &format!("[{}]", list.join(",")))
    }

    pub fn optional<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => write(self, value),
            None => self,
        }
    }

    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_what_can_be_read_in_two_ways_is_refused() {
        let refused = [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":-1}"#,
            r#"{"a":-0}"#,
            r#"{"a":01}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":1} {}"#,
            r#"{"a":1}x"#,
            r#"{"a":[[[[[[[[1]]]]]]]]}"#,
            r#"{"a":1,}"#,
            r#"{"a":"\ud800"}"#,
            "[1]",
            "1",
            "",
        ];
        for json in refused {
            assert!(Object::parse(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err(), "no UTF-8");
        let accepted = r#" {"a": 9007199254740992, "b":[[[[[[[1]]]]]]], "c":null} "#;
        assert_eq!(Object::parse(accepted.as_bytes()).unwrap().integer("a"), Ok(1 << 53));
    }

    #[test]
    fn f2_a_field_is_of_its_type_or_refused() {
        let object = Object::parse(br#"{"n":1,"t":"x","h":"0A","g":"0a","f":false,"o":{}}"#);
        let object = object.unwrap();
        assert_eq!(object.integer("t"), Err("field 't' is not a whole number".into()));
        assert_eq!(object.text("n"), Err("field 'n' is not a string".into()));
        assert_eq!(object.text("z"), Err("field 'z' is missing".into()));
        assert!(object.hex::<1>("h").is_err(), "digits are in lower case");
        assert!(object.hex::<2>("g").is_err(), "as many as there shall be");
        assert_eq!(object.hex("g"), Ok([10]));
        assert!(object.optional_true("f").is_err(), "true or nothing");
        assert!(object.list("o").is_err() && object.object("n").is_err());
    }
}
