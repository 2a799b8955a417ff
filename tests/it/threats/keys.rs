//! Signing keys that change while people log in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::process::scanlogin;
use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, Site};
use crate::support::service::Service;
use crate::support::temporary_directory;

/// A site's library: keeps the keys that it was told, and asks again once if it meets one that it does not know.
#[derive(Debug)]
struct RelyingParty {
    keys: Value,
    fetches: usize,
    /// Of all tokens so far.
    kids: BTreeSet<String>,
}

impl RelyingParty {
    async fn new(service: &Service) -> Self {
        Self {
            keys: Reply::to(service.get("/jwks.json")).await.ok(),
            fetches: 1,
            kids: BTreeSet::new(),
        }
    }

    /// Believes an id_token, or does not; asks `service` for keys.
    async fn believes(&mut self, id_token: &str, service: &Service) -> bool {
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let (signed, signature) = id_token.rsplit_once('.').expect("a signature");
        let (header, _) = signed.split_once('.').expect("a header");
        let header: Value = serde_json::from_slice(&decoded(header)).expect("JSON");
        let kid = header["kid"].as_str().expect("a kid");
        self.kids.insert(kid.to_owned());
        if self.key(kid).is_none() {
            self.keys = Reply::to(service.get("/jwks.json")).await.ok();
            self.fetches += 1;
        }
        let Some(key) = self.key(kid) else { return false };
        let coordinates = ["x", "y"].map(|part| decoded(key[part].as_str().expect("a coordinate")));
        let point = [&[4][..], &coordinates[0], &coordinates[1]].concat();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(signed.as_bytes(), &decoded(signature)).is_ok()
    }

    fn key(&self, kid: &str) -> Option<&Value> {
        self.keys["keys"]
            .as_array()
            .expect("keys")
            .iter()
            .find(|key| key["kid"] == kid)
    }
}

/// Key files of one directory.
struct Files(TempDir);

impl Files {
    /// A new key.
    fn draw(&self, name: &str) -> Value {
        let path = self.0.path().join(name);
        let made = scanlogin()
            .args(["keys", "new", "--out"])
            .arg(&path)
            .output()
            .expect("it runs");
        assert!(made.status.success());
        let set: Value = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
        set["keys"][0].clone()
    }

    fn with(&self, name: &str, keys: &[&Value]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, json!({ "keys": keys }).to_string()).expect("written");
        path
    }
}

/// Two replicas, the site, and how many people there were.
struct Stage {
    replicas: [Service; 2],
    site: RelyingParty,
    person: usize,
}

impl Stage {
    fn person(&mut self) -> String {
        self.person += 1;
        format!("person-{}", self.person)
    }

    /// Starts it again with these keys, while people log in: a code from before is redeemed after, half a login goes on at the other.
    async fn restart(&mut self, restarted: usize, keys: &Path) {
        let stays = 1 - restarted;
        let (someone, other) = (self.person(), self.person());
        let half = Browser::start(&self.replicas[restarted]).await;
        let whole = Browser::start(&self.replicas[stays]).await;
        let whole = whole.code_of(&someone, &self.replicas[restarted]).await;
        let next = self.replicas[restarted].replica();
        let next = next.with("SIGNING_KEYS_FILE", keys.display()).start().await;
        let mut gone = std::mem::replace(&mut self.replicas[restarted], next);
        gone.terminate();
        assert!(gone.process.ended().await.success());
        let half = half.at(&self.replicas[stays]);
        let half = half.code_of(&other, &self.replicas[stays]).await;
        self.redeem(&whole, restarted).await;
        self.redeem(&half, stays).await;
    }

    /// Shows the site an id_token; the keys that it does not know come from the replica that did not sign it.
    async fn redeem(&mut self, code: &str, here: usize) {
        let redeemed = Site::demo().redeem(&self.replicas[here], code).await.ok();
        let id_token = redeemed["id_token"].as_str().unwrap();
        let is_believed = self.site.believes(id_token, &self.replicas[1 - here]).await;
        assert!(is_believed, "a login failed: {:?}", self.site);
    }

    async fn log_in(&mut self, here: usize) {
        let person = self.person();
        let browser = Browser::start(&self.replicas[1 - here]).await;
        let code = browser.code_of(&person, &self.replicas[here]).await;
        self.redeem(&code, here).await;
    }
}

#[tokio::test]
async fn t36_keys_change_in_three_steps_and_no_site_notices() {
    let redis = RedisServer::start();
    let files = Files(temporary_directory());
    let (old, new) = (files.draw("old"), files.draw("new"));
    let at_first = files.with("at-first", &[&old]);
    let builder = Service::builder().redis(&redis);
    let first = builder.with("SIGNING_KEYS_FILE", at_first.display()).start().await;
    let second = first.replica().with("SIGNING_KEYS_FILE", at_first.display());
    let second = second.start().await;
    let site = RelyingParty::new(&first).await;
    let mut stage = Stage {
        replicas: [first, second],
        site,
        person: 0,
    };
    for step in [
        files.with("published", &[&old, &new]),
        files.with("in-use", &[&new, &old]),
        files.with("alone", &[&new]),
    ] {
        for restarted in 0..2 {
            stage.restart(restarted, &step).await;
            for here in 0..2 {
                stage.log_in(here).await;
            }
        }
    }
    let site = &stage.site;
    assert_eq!(site.kids.len(), 2, "both have signed");
    assert_eq!(
        site.fetches, 2,
        "the site asked again when it met the new one, and no more"
    );
    let published = Reply::to(stage.replicas[0].get("/jwks.json")).await.ok();
    let kids: Vec<&Value> = published["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["kid"])
        .collect();
    assert_eq!(kids, [&new["kid"]], "the old one is gone");
}
