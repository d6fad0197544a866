//! JSON as SPEC.md §9 takes it: valid UTF-8, no key of an object twice, nested to a bounded depth.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// How deep arrays and objects may be nested, the outermost one included.
const DEPTH_MAX: usize = 64;

/// Reads one JSON value, which nothing but white space follows.
pub(crate) fn parse<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, String> {
    // Checked here, as the parser does not look into strings that are ignored.
    let text = std::str::from_utf8(json).map_err(|error| error.to_string())?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// What is kept of an object; an array is no object.
pub(crate) trait Object<'de>: Default {
    /// What the object is to be, in words.
    const IS: &'static str;

    /// Takes the value of a key that has not occurred before.
    fn entry<A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error>;
}

/// Has serde read these types as the objects that they are.
macro_rules! objects {
    ($($object:ident),+) => {$(
        impl<'de> serde::Deserialize<'de> for $object {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::checkpoint::json::object(from)
            }
        }
    )+};
}
pub(crate) use objects;

/// Reads an object, and refuses keys that occur twice.
pub(crate) fn object<'de, T: Object<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Reading<T>(PhantomData<T>);
    impl<'de, T: Object<'de>> Visitor<'de> for Reading<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::IS)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let (mut object, mut keys) = (T::default(), Keys::default());
            while let Some(key) = keys.next(&mut map)? {
                object.entry(key, &mut map)?;
            }
            Ok(object)
        }
    }
    deserializer.deserialize_map(Reading(PhantomData))
}

/// Reads a value of which nothing is kept.
pub(crate) fn skip<'de, A: MapAccess<'de>>(map: &mut A, depth: usize) -> Result<(), A::Error> {
    map.next_value_seed(Skip { depth })
}

/// The keys of an object, each once.
#[derive(Debug, Default)]
struct Keys(HashSet<String>);

impl Keys {
    fn next<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Option<String>, A::Error> {
        let key: Option<String> = map.next_key()?;
        match key {
            Some(key) if !self.0.insert(key.clone()) => {
                Err(de::Error::custom(format!("the key {key:?} is duplicated")))
            }
            key => Ok(key),
        }
    }
}

/// A value of which nothing is kept, within `depth` arrays and objects.
struct Skip {
    depth: usize,
}

impl Skip {
    fn inner<E: de::Error>(&self) -> Result<Skip, E> {
        if self.depth < DEPTH_MAX {
            Ok(Skip { depth: self.depth + 1 })
        } else {
            Err(E::custom(format!("nested more than {DEPTH_MAX} deep")))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Skip { depth } = self.inner()?;
        while seq.next_element_seed(Skip { depth })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (Skip { depth }, mut keys) = (self.inner()?, Keys::default());
        while keys.next(&mut map)?.is_some() {
            skip(&mut map, depth)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object of which nothing is kept.
    #[derive(Debug, Default, PartialEq)]
    struct Nothing;

    impl<'de> Object<'de> for Nothing {
        const IS: &'static str = "an object";

        fn entry<A: MapAccess<'de>>(&mut self, _: String, map: &mut A) -> Result<(), A::Error> {
            skip(map, 1)
        }
    }

    impl<'de> Deserialize<'de> for Nothing {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            object(deserializer)
        }
    }

    #[test]
    fn what_is_skipped_is_checked_all_the_same() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        for good in [
            "{}",
            "{\"a\":1e3,\"b\":-0,\"c\":[null,true,18446744073709551616,\"\\ud83d\\ude00\"]}",
            "{\"a\":{\"a\":{\"b\":1},\"b\":{\"a\":1}}} \n",
            &nested(63),
        ] {
            assert_eq!(parse(good.as_bytes()), Ok(Nothing), "{good}");
        }
        for (bad, why) in [
            (&b"[]"[..], "an object"),
            (b"{\"a\":\"\xff\"}", "utf-8"),
            (b"{\"a\":1,\"\\u0061\":2}", "\"a\" is duplicated"),
            (b"{\"a\":[{\"b\":{\"c\":1,\"c\":1}}]}", "\"c\" is duplicated"),
            (b"{\"a\":\"\\ud800\"}", "hex escape"),
            (b"{\"a\":1e999}", "out of range"),
            (b"{\"a\":01}", "invalid number"),
            (b"{\"a\":NaN}", "expected"),
            (b"{} {}", "trailing"),
            (nested(64).as_bytes(), "nested more than 64"),
            (nested(100_000).as_bytes(), "nested more than 64"),
        ] {
            let error = parse::<Nothing>(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
