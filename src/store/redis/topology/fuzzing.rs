//! What holds of whatever Redis and its sentinels say of themselves, and of whatever a record holds: see [`crate::fuzzing`].

use bytes::BytesMut;
use redis_protocol::resp3::decode::complete::decode_bytes_mut;

use super::owners::{Owners, View};
use super::{master, replicas_of};
use crate::scene::{Life, SceneId};
use crate::store::redis::commands::info_field;
use crate::store::redis::record;
use crate::store::redis::servers::Address;
use crate::store::redis::settings::{ClientSettings, RedisSettings, Wait};
use crate::store::redis::wire::whole_frame;

/// `CLUSTER NODES`, `INFO`, `SENTINEL REPLICAS`, a record: each time all of it.
pub(crate) fn redis_answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let asked = Address {
        host: "10.0.0.2".to_owned(),
        port: 7000,
    };
    for names in [false, true] {
        let views = [View::parse(&text, &asked, names)];
        let owners = Owners::of_cluster(&views);
        assert!(owners.of_tags().count() <= 256);
        for (_, owner) in owners.of_tags() {
            assert!(owners.primaries().contains(owner));
            assert!(!owner.host.is_empty(), "nobody is somewhere");
        }
    }
    for name in ["redis_version", "role", "maxmemory_policy"] {
        assert!(info_field(&text, name).is_none_or(|value| !value.contains('\n')));
    }
    if let Ok(true) = whole_frame(data)
        && let Ok(Some((frame, ..))) = decode_bytes_mut(&mut BytesMut::from(data))
    {
        let _ = (replicas_of(&frame), master(&frame));
    }
    kept(data);
}

/// The URL of Redis. What is wrong with it is told in one line, and not the password.
pub(crate) fn redis_url(data: &[u8]) {
    const PASSWORD: &str = "opensesame";

    let Ok(text) = std::str::from_utf8(data) else { return };
    for scheme in ["redis", "redis-cluster", "redis-sentinel"] {
        for url in [
            format!("{scheme}://user:{PASSWORD}@{text}"),
            format!("{scheme}://{text}"),
        ] {
            let settings = RedisSettings {
                url: url.into(),
                prefix: "scanlogin".to_owned(),
                wait: Wait::Auto,
                ca_file: None,
                sentinel_password: None,
            };
            if let Err(error) = ClientSettings::check(&settings) {
                let line = error.to_string();
                assert!(!line.contains(PASSWORD) && !line.contains(char::is_control), "{line:?}");
            }
        }
    }
}

/// A record is read as it was written, and as no other scene's.
fn kept(record: &[u8]) {
    let id = |text: &str| text.parse::<SceneId>().ok();
    let (Some(own), Some(other)) = (
        id("0123456789abcdef0123456789abcdef"),
        id("f123456789abcdef0123456789abcdef"),
    ) else {
        return;
    };
    assert!(record::decode(&other, record).is_err() || record::decode(&own, record).is_err());
    let Ok(scene) = record::decode(&own, record) else {
        return;
    };
    let written = record::encode(&scene).unwrap_or_default();
    assert_eq!(record::decode(&own, &written).ok().as_ref(), Some(&scene));
    assert_eq!(record::write_id(record), Some(scene.write_id));
    for life in [0, 1, 90, 91, 210] {
        let life = Life(std::time::Duration::from_secs(life));
        let told = scene.public_state(life);
        assert!(told.code_left_ms <= 60_000 && told.match_number.is_none_or(|_| scene.is_open()));
    }
}
