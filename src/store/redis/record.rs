//! How a scene is written down: its write_id in a fixed number of bytes, where a script can compare it, and then JSON.

use bytes::Bytes;

use crate::scene::{Life, Scene, SceneId, WriteId};
use crate::store::StoreError;

pub(super) fn encode(scene: &Scene) -> Result<Bytes, StoreError> {
    let mut record = scene.write_id.to_string().into_bytes();
    serde_json::to_writer(&mut record, scene).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(record.into())
}

pub(super) fn decode(id: &SceneId, record: &[u8]) -> Result<Scene, StoreError> {
    // Never the record's text in the error: it goes to the log.
    let corrupt = |what: &str| StoreError::Corrupt(format!("{id:?}: {what}"));
    let write_id = write_id(record).ok_or_else(|| corrupt("no write_id"))?;
    let json = record.get(WriteId::TEXT_LEN..).unwrap_or_default();
    let scene: Scene = serde_json::from_slice(json)
        .map_err(|error| corrupt(&format!("column {}: {:?}", error.column(), error.classify())))?;
    if scene.id != *id {
        return Err(corrupt("another scene's record"));
    }
    Ok(Scene { write_id, ..scene })
}

/// Which write a record is from.
pub(super) fn write_id(record: &[u8]) -> Option<WriteId> {
    let text = record.get(..WriteId::TEXT_LEN)?;
    WriteId::parse(std::str::from_utf8(text).ok()?)
}

/// What everybody who watches the scene is told of it.
pub(super) fn announcement(scene: &Scene, life: Life) -> Result<String, StoreError> {
    serde_json::to_string(&scene.public_state(life)).map_err(|error| StoreError::Corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::scene::{Authorization, BrowserDescription, BrowserSecret, Caution, EventId, State};
    use crate::traceparent::Traceparent;

    fn scene() -> Scene {
        let mut rng = StdRng::seed_from_u64(1);
        let secret = BrowserSecret::random(&mut rng);
        Scene {
            id: SceneId::random(&mut rng),
            write_id: WriteId::random(&mut rng),
            version: 1,
            event_id: EventId::random(&mut rng),
            client_id: "blog".to_owned(),
            created_at: 1_000,
            expires_at: 1_120,
            browser_secret: secret.digest(),
            code: secret.code().digest(),
            authorization: Authorization::default(),
            browser: BrowserDescription::default(),
            state: State::Waiting,
            caution: Caution::default(),
            doubt: None,
            short_code: None,
            env_version: None,
            scanned_life_ms: None,
            traceparent: None,
            unknown: BTreeMap::from([("later".to_owned(), serde_json::json!({"a": [1, 2]}))]),
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_unknown_fields_included() {
        let scene = scene();
        let record = encode(&scene).unwrap();
        assert_eq!(decode(&scene.id, &record).unwrap(), scene);
        assert_eq!(write_id(&record), Some(scene.write_id));
    }

    #[test]
    fn a_record_tells_of_its_trace_and_is_read_whatever_it_tells() {
        let traceparent = Traceparent::random(&mut StdRng::seed_from_u64(2));
        let told = Scene {
            traceparent: Some(traceparent),
            ..scene()
        };
        let record = encode(&told).unwrap();
        assert_eq!(decode(&told.id, &record).unwrap(), told);
        let text = String::from_utf8(record.to_vec()).unwrap();
        let field = format!(r#""traceparent":"{traceparent}""#);
        assert!(text.contains(&field), "{text}");
        // Of a version before, or of one after that writes it in another way.
        for other in [r#""another":1"#, r#""traceparent":"?""#, r#""traceparent":{}"#] {
            let record = text.replace(&field, other);
            assert_eq!(
                decode(&told.id, record.as_bytes()).unwrap().traceparent,
                None,
                "{other}"
            );
        }
    }

    #[test]
    fn what_is_no_record_of_this_scene_is_corrupt() {
        let scene = scene();
        let record = encode(&scene).unwrap();
        let other = SceneId::random(&mut StdRng::seed_from_u64(9));
        assert!(matches!(decode(&other, &record), Err(StoreError::Corrupt(_))));
        for wrong in [&b""[..], b"x", &record[1..], &record[..record.len() - 1]] {
            assert!(matches!(decode(&scene.id, wrong), Err(StoreError::Corrupt(_))));
        }
    }
}
