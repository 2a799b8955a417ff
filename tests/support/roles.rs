//! Who takes part in a login: the browser that shows the code, the phone that scans it, the site that wants to know who it is.

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, RequestBuilder};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use scanlogin::scene::s256;
use serde_json::{Value, json};

use super::events::EventStream;
use super::reply::Reply;
use super::service::Service;

/// What PKCE's verifier is in every test that does not try another one.
pub(crate) const VERIFIER: &str = "a-verifier-of-43-characters-or-more-0123456789";

/// The browser that started a scene.
#[derive(Debug, Clone)]
pub(crate) struct Browser {
    http: reqwest::Client,
    base: String,
    pub(crate) scene: String,
    pub(crate) secret: String,
    /// What `POST /scenes` answered.
    pub(crate) started: Value,
    /// Its `Set-Cookie`.
    pub(crate) set_cookie: String,
}

impl Browser {
    /// At the only client, with PKCE.
    pub(crate) async fn start(service: &Service) -> Self {
        Self::start_with(service, json!({ "code_challenge": s256(VERIFIER) })).await
    }

    /// With this request.
    pub(crate) async fn start_with(service: &Service, request: Value) -> Self {
        let reply = Reply::to(service.post("/scenes", &request)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        Self::started(service, &reply)
    }

    /// As [`Self::start`], if it is served.
    pub(crate) async fn try_start(service: &Service) -> Option<Self> {
        let request = json!({ "code_challenge": s256(VERIFIER) });
        let reply = Reply::to(service.post("/scenes", &request)).await;
        (reply.status == 201).then(|| Self::started(service, &reply))
    }

    /// The one that was answered so.
    pub(crate) fn started(service: &Service, reply: &Reply) -> Self {
        let started = reply.json();
        Self {
            http: service.http.clone(),
            base: service.base.clone(),
            scene: started["scene"].as_str().expect("a scene").to_owned(),
            secret: started["browser_secret"].as_str().expect("a secret").to_owned(),
            set_cookie: reply.header("set-cookie").to_owned(),
            started,
        }
    }

    /// One that started this scene elsewhere.
    pub(crate) fn that_has(scene: &str, secret: &str, service: &Service) -> Self {
        Self {
            http: service.http.clone(),
            base: service.base.clone(),
            scene: scene.to_owned(),
            secret: secret.to_owned(),
            started: Value::Null,
            set_cookie: String::new(),
        }
    }

    /// The same browser, asking another replica from now on.
    pub(crate) fn at(&self, replica: &Service) -> Self {
        Self {
            base: replica.base.clone(),
            ..self.clone()
        }
    }

    /// A request that proves nothing.
    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn events_request(&self) -> RequestBuilder {
        self.call(Method::GET, &format!("/events/{}", self.scene))
            .bearer_auth(&self.secret)
            .header("accept", "text/event-stream")
    }

    pub(crate) async fn events(&self) -> EventStream {
        Self::open(self.events_request()).await
    }

    /// As after a break, when this was the last event seen.
    pub(crate) async fn events_after(&self, id: &str) -> EventStream {
        Self::open(self.events_request().header("last-event-id", id)).await
    }

    async fn open(request: RequestBuilder) -> EventStream {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        EventStream::new(response)
    }

    pub(crate) fn status_request(&self, query: &str) -> RequestBuilder {
        self.call(Method::GET, &format!("/scenes/{}{query}", self.scene))
            .bearer_auth(&self.secret)
    }

    pub(crate) async fn status(&self) -> Value {
        Reply::to(self.status_request("")).await.ok()
    }

    pub(crate) async fn long_poll(&self, wait: u32, after: &str) -> Value {
        Reply::to(self.status_request(&format!("?wait={wait}&after={after}")))
            .await
            .ok()
    }

    pub(crate) async fn code_image(&self) -> Reply {
        Reply::to(self.call(Method::GET, &format!("/scenes/{}/code", self.scene))).await
    }

    /// Its authorization code, once the person of this openid has scanned and confirmed.
    pub(crate) async fn code_of(&self, openid: &str, service: &Service) -> String {
        let phone = Phone::that_scanned(openid, service, &self.scene).await;
        phone.confirm(service, &self.scene).await.ok();
        self.status().await["code"].as_str().expect("a code").to_owned()
    }

    pub(crate) async fn cancel(&self) -> Reply {
        let request = self.call(Method::DELETE, &format!("/scenes/{}", self.scene));
        Reply::to(request.bearer_auth(&self.secret)).await
    }
}

/// One person's phone, in the Mini Program.
#[derive(Debug, Clone)]
pub(crate) struct Phone {
    pub(crate) openid: String,
    /// The confirm token of its last scan.
    pub(crate) token: String,
}

impl Phone {
    pub(crate) fn of(openid: &str) -> Self {
        Self {
            openid: openid.to_owned(),
            token: String::new(),
        }
    }

    /// A phone of which we know no more than that it has scanned.
    pub(crate) async fn that_scanned(openid: &str, service: &Service, scene: &str) -> Self {
        let mut phone = Self::of(openid);
        phone.scan(service, scene).await.ok();
        phone
    }

    pub(crate) async fn scan(&mut self, service: &Service, scene: &str) -> Reply {
        let code = service.wx_code(&self.openid).await;
        let reply = Self::scan_with(service, scene, &code).await;
        if reply.status == 200 {
            let given = reply.json();
            given["confirm_token"]
                .as_str()
                .expect("a token")
                .clone_into(&mut self.token);
        }
        reply
    }

    /// A scan with a given `wx.login` code.
    pub(crate) async fn scan_with(service: &Service, scene: &str, wx_code: &str) -> Reply {
        Reply::to(service.post(&format!("/scenes/{scene}/scan"), &json!({ "code": wx_code }))).await
    }

    pub(crate) async fn confirm(&self, service: &Service, scene: &str) -> Reply {
        self.confirm_with(service, scene, json!({})).await
    }

    pub(crate) async fn confirm_with(&self, service: &Service, scene: &str, body: Value) -> Reply {
        let request = service.post(&format!("/scenes/{scene}/confirm"), &body);
        Reply::to(request.bearer_auth(&self.token)).await
    }

    pub(crate) async fn decline(&self, service: &Service, scene: &str) -> Reply {
        self.decline_with(service, scene, json!({})).await
    }

    pub(crate) async fn decline_with(&self, service: &Service, scene: &str, body: Value) -> Reply {
        let request = service.post(&format!("/scenes/{scene}/decline"), &body);
        Reply::to(request.bearer_auth(&self.token)).await
    }

    pub(crate) async fn upload_avatar(&self, service: &Service, scene: &str, image: impl Into<Bytes>) -> Reply {
        let request = service.call(Method::PUT, &format!("/scenes/{scene}/avatar"));
        Reply::to(request.bearer_auth(&self.token).body(image.into())).await
    }
}

/// The site's backend, a relying party.
#[derive(Debug, Clone)]
pub(crate) enum Site {
    /// Without a secret.
    Public(&'static str),
    /// `client_secret_basic`: its id and secret.
    Basic(&'static str, &'static str),
    /// `client_secret_post`: its id and secret.
    Post(&'static str, &'static str),
}

impl Site {
    /// The built-in demo site.
    pub(crate) fn demo() -> Self {
        Self::Public("demo")
    }

    pub(crate) fn client_id(&self) -> &'static str {
        let (Self::Public(id) | Self::Basic(id, _) | Self::Post(id, _)) = self;
        id
    }

    /// Redeems a code, with PKCE's verifier.
    pub(crate) async fn redeem(&self, service: &Service, code: &str) -> Reply {
        self.token(service, &[("code", code), ("code_verifier", VERIFIER)])
            .await
    }

    /// `POST /token` with these parameters, `grant_type` and what proves the client.
    pub(crate) async fn token(&self, service: &Service, form: &[(&str, &str)]) -> Reply {
        let mut form = form.to_vec();
        form.push(("grant_type", "authorization_code"));
        let request = service.call(Method::POST, "/token");
        let request = match *self {
            Self::Public(id) => {
                form.push(("client_id", id));
                request
            }
            Self::Basic(id, secret) => request.basic_auth(id, Some(secret)),
            Self::Post(id, secret) => {
                form.extend([("client_id", id), ("client_secret", secret)]);
                request
            }
        };
        Reply::to(with_form(request, &form)).await
    }

    pub(crate) async fn userinfo(service: &Service, access_token: &str) -> Reply {
        Reply::to(service.get("/userinfo").bearer_auth(access_token)).await
    }

    /// What an id_token says that it is signed with.
    pub(crate) fn alg(id_token: &str) -> String {
        let header = URL_SAFE_NO_PAD
            .decode(id_token.split('.').next().expect("a header"))
            .expect("base64url");
        let header: Value = serde_json::from_slice(&header).expect("JSON");
        header["alg"].as_str().expect("an algorithm").to_owned()
    }

    /// The claims of an id_token whose signature fits a published key.
    pub(crate) async fn verified(service: &Service, id_token: &str) -> Value {
        let jwks = Reply::to(service.get("/jwks.json")).await.ok();
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
        let (signed, signature) = id_token.rsplit_once('.').expect("a signature");
        let (header, claims) = signed.split_once('.').expect("a header");
        let header: Value = serde_json::from_slice(&decoded(header)).expect("JSON");
        let keys = jwks["keys"].as_array().expect("keys");
        let key = keys.iter().find(|key| key["kid"] == header["kid"]).expect("its key");
        assert!(key.get("d").is_none(), "a private key was published");
        assert_eq!(key["alg"], header["alg"]);
        let part = |name: &str| decoded(key[name].as_str().expect("a member"));
        let (message, signature) = (signed.as_bytes(), decoded(signature));
        let verified = match header["alg"].as_str() {
            Some("ES256") => {
                assert_eq!((&key["kty"], &key["crv"]), (&json!("EC"), &json!("P-256")));
                let point = [&[4][..], &part("x"), &part("y")].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, &signature)
            }
            Some("RS256") => {
                assert_eq!(key["kty"], "RSA");
                let (n, e) = (part("n"), part("e"));
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, &signature)
            }
            other => panic!("{other:?}"),
        };
        verified.expect("a signature of that key");
        serde_json::from_slice(&decoded(claims)).expect("JSON")
    }
}

/// A form as a body.
pub(crate) fn with_form(request: RequestBuilder, form: &[(&str, &str)]) -> RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    request
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
}
