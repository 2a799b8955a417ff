//! A JSON object as a request's body.

use serde::de::DeserializeOwned;

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
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| format!("The JSON body is not as expected: {error}."))?;
    deserializer
        .end()
        .map_err(|error| format!("More than one JSON value is in the body: {error}."))?;
    Ok(value)
}
