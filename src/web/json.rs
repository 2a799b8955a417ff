//! A JSON object as a request's body.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// How deep a body may nest.
const DEPTH_MAX: usize = 16;

/// Reads one; nothing at all counts as `{}`.
///
/// # Errors
/// What is wrong with it, as a sentence for whoever sent it.
pub fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let body = if body.is_empty() { b"{}" } else { body };
    // To serde an array of a struct's fields in their order would do as well.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("The JSON body must be an object.".to_owned());
    }
    // Checked here, because serde reads over what it need not keep.
    let text = std::str::from_utf8(body).map_err(|_| "The JSON body is not UTF-8.".to_owned())?;
    let mut form = serde_json::Deserializer::from_str(text);
    let well_formed = Form { depth: DEPTH_MAX }.deserialize(&mut form);
    well_formed.map_err(|error| unexpected(&error))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| unexpected(&error))?;
    deserializer
        .end()
        .map_err(|error| format!("More than one JSON value is in the body: {error}."))?;
    Ok(value)
}

/// Numbers by what they are to whoever writes JSON, and not by their type here.
fn unexpected(error: &impl fmt::Display) -> String {
    let words = error.to_string().replace("expected i64", "expected a whole number");
    format!("The JSON body is not as expected: {words}.")
}

/// A struct within a body, as an object: to serde an array of its fields in their order would do as well.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// Reads over any value, and refuses what programs read differently: one name twice in an object, or more levels than anybody needs.
struct Form {
    depth: usize,
}

impl Form {
    fn within<E: Error>(&self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom(format_args!("it nests deeper than {DEPTH_MAX} levels")))?;
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Form {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Form {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
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

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.within()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            fields.next_value_seed(self.within()?)?;
            if let Some(twice) = names.replace(name) {
                return Err(A::Error::custom(format_args!("{twice:?} is there twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<std::collections::BTreeMap<String, serde_json::Value>, String> {
        object(body.as_bytes())
    }

    #[test]
    fn what_nests_too_deep_or_says_a_thing_twice_is_refused_wherever_it_stands() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        read(&nested(DEPTH_MAX - 1)).unwrap();
        read(&nested(DEPTH_MAX)).unwrap_err();
        let refused = read(&nested(8_000)).unwrap_err();
        assert!(refused.contains("nests deeper"), "{refused}");
        read(r#"{"a":{"b":1},"b":[{"a":1},{"a":2}],"c":null,"d":-1.5,"e":true,"f":"x"}"#).unwrap();
        for twice in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":1,"b":2,"a":3}]}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            let refused = read(twice).unwrap_err();
            assert!(refused.contains("twice"), "{refused}");
        }
    }
}
