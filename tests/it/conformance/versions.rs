//! Replicas of another version at the same Redis, as while one is being replaced by the next.

use scanlogin::scene::Life;
use serde_json::{Value, json};

use super::backend::{Login, TTL, settings};
use super::client::Client;
use crate::support::cli::{cli, cli_ok};
use crate::support::redis::RedisServer;

/// What stands before the JSON of a record.
const WRITE_ID_LEN: usize = 22;

/// A scene's record, as another version would read or write it.
struct Record<'a> {
    server: &'a RedisServer,
    key: String,
}

impl<'a> Record<'a> {
    fn of(login: &Login, server: &'a RedisServer) -> Self {
        let key = format!("scanlogin:{{{}}}:{}", login.id().hash_tag(), login.id());
        Self { server, key }
    }

    fn read(&self) -> Value {
        let record = cli(self.server.addr(), &["GET", &self.key]);
        serde_json::from_str(&record[WRITE_ID_LEN..]).expect("JSON behind the write_id")
    }

    fn rewrite(&self, change: impl FnOnce(&mut Value)) {
        let record = cli(self.server.addr(), &["GET", &self.key]);
        let mut json = self.read();
        change(&mut json);
        let record = format!("{}{json}", &record[..WRITE_ID_LEN]);
        cli_ok(self.server.addr(), &["SET", &self.key, &record, "KEEPTTL"]);
    }
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_read_and_what_is_not_understood_of_it_outlives_every_write() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::created(&*store, Life::of_new(TTL)).await;
    let record = Record::of(&login, &server);
    let (field, value) = ("of_a_later_version", json!({"kept": [true, null, 1.5, "as it was"]}));
    record.rewrite(|json| json[field] = value.clone());
    assert_eq!(login.stored(&*store).await.scene.unknown[field], value);
    for step in ["scan", "confirm", "redeem"] {
        let applied = match step {
            "scan" => login.scan(&*store).await,
            "confirm" => login.confirm(&*store).await,
            _ => login.redeem(&*store).await,
        };
        applied.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(record.read()[field], value, "{step}");
    }
}

/// What a record may lack, by where it stands: whatever is left out when there is nothing to say, and what has a default.
const OPTIONAL: [(&str, &[&str]); 5] = [
    ("/authorization", &["code_challenge", "nonce", "redirect_uri"]),
    ("/browser", &["ip", "place"]),
    ("/state/confirmed", &["profile", "redeemed"]),
    ("/state/confirmed/scan", &["avatar"]),
    ("/state/confirmed/scan/person", &["unionid"]),
];

#[tokio::test]
async fn what_an_older_version_wrote_without_the_optional_fields_is_read_and_goes_on() {
    let server = RedisServer::start();
    let store = Client::started(&settings(&server.url())).await;
    let login = Login::confirmed(&*store, Life::of_new(TTL)).await;
    let before = login.stored(&*store).await.scene;
    let record = Record::of(&login, &server);
    let mut lacks = 0;
    record.rewrite(|json| {
        for (place, fields) in OPTIONAL {
            let place = json.pointer_mut(place).and_then(Value::as_object_mut).expect(place);
            lacks += fields.iter().filter(|field| place.remove(**field).is_some()).count();
        }
    });
    assert!(lacks > 0, "nothing was left out");
    assert_eq!(login.stored(&*store).await.scene, before);
    login.redeem(&*store).await.unwrap();
    assert!(login.redeem(&*store).await.is_err(), "redeemed twice");
}
