//! WeChat as the simulator speaks it, and the simulator's own calls, over real connections.

use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::IntoResponse;
use reqwest::{RequestBuilder, Response, Url};
use rqrr::PreparedImage;
use scanlogin::wechat::simulator::serve::{SimulateArgs, run, serve};
use scanlogin::wechat::simulator::{Simulator, SimulatorSettings};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use crate::support::redis::free_addr;

const APPID: &str = "wx0123456789abcdef";
const SCENE: &str = "3f9c2b1e8a7d4c6fb0e5d4c3b2a19087";

/// A listener that ends with the test.
struct Served {
    url: Url,
    _shutdown: DropGuard,
}

impl Served {
    async fn start(router: impl FnOnce(&Url) -> Router) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let shutdown = CancellationToken::new();
        TaskTracker::new().spawn(serve(listener, router(&url), shutdown.clone()));
        Self {
            url,
            _shutdown: shutdown.drop_guard(),
        }
    }
}

/// A simulator as `scanlogin simulate` runs it, and a client to call it with.
pub(crate) struct Wechat {
    served: Served,
    http: reqwest::Client,
}

impl Wechat {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut SimulatorSettings)) -> Self {
        let served = Served::start(|url| {
            let mut settings = SimulatorSettings {
                public_url: url.clone(),
                service_url: url.clone(),
                appid: None,
                secret: None,
                fault_rate: 0.0,
                seed: 1,
            };
            change(&mut settings);
            let simulator = Simulator::new(settings).unwrap();
            simulator.wechat_router().merge(simulator.control_router())
        });
        let served = served.await;
        Self { served, http: client() }
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.served.url.join(path).unwrap())
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.call(Method::GET, path)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.call(Method::POST, path).json(body)
    }

    async fn access_token(&self) -> String {
        let path = format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret=s");
        string(&json_of(self.get(&path)).await, "access_token")
    }

    fn picture(&self, access_token: &str, body: &Value) -> RequestBuilder {
        self.post(&format!("/wxa/getwxacodeunlimit?access_token={access_token}"), body)
    }

    async fn login(&self, body: Value) -> String {
        string(&json_of(self.post("/simulator/login", &body)).await, "code")
    }

    fn exchange(&self, code: &str) -> RequestBuilder {
        self.get(&format!(
            "/sns/jscode2session?appid={APPID}&secret=s&js_code={code}&grant_type=authorization_code"
        ))
    }

    async fn fault(&self, order: Value) {
        let response = self.post("/simulator/faults", &order).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{order}");
    }

    async fn calls(&self) -> Vec<Value> {
        self.get("/simulator/calls").send().await.unwrap().json().await.unwrap()
    }
}

/// One that shows redirects.
fn client() -> reqwest::Client {
    // An error means that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    builder.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

async fn json_of(request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Also checks what all of WeChat's errors have in common.
async fn errcode_of(request: RequestBuilder) -> i64 {
    let body = json_of(request).await;
    let errcode = body["errcode"].as_i64().unwrap_or(0);
    assert_eq!(errcode != 0, string(&body, "errmsg").contains(" rid: "), "{body}");
    errcode
}

fn string(json: &Value, field: &str) -> String {
    json[field].as_str().unwrap_or_default().to_owned()
}

fn content_type(response: &Response) -> &str {
    header_of(response, header::CONTENT_TYPE)
}

fn header_of(response: &Response, name: header::HeaderName) -> &str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn scanned(side: usize, luma: &[u8]) -> String {
    let mut image = PreparedImage::prepare_from_greyscale(side, side, |x, y| luma[y * side + x]);
    let grids = image.detect_grids();
    grids[0].decode().unwrap().1
}

#[tokio::test]
async fn a_token_call_checks_in_wechats_order_and_gives_a_new_token_each_time() {
    let wechat = Wechat::start().await;
    let asked = format!("/cgi-bin/token?grant_type=client_credential&appid={APPID}&secret=s");
    let response = wechat.get(&asked).send().await.unwrap();
    assert_eq!(content_type(&response), "application/json; encoding=utf-8");
    let given: Value = response.json().await.unwrap();
    assert_eq!(given["expires_in"], 7200);
    assert_ne!(given["access_token"], wechat.access_token().await);

    for (query, errcode) in [
        ("", 40002),
        ("grant_type=authorization_code&appid=a&secret=s", 40002),
        ("grant_type=client_credential", 41002),
        ("grant_type=client_credential&appid=&secret=s", 41002),
        ("grant_type=client_credential&appid=a", 41004),
    ] {
        let asked = wechat.get(&format!("/cgi-bin/token?{query}"));
        assert_eq!(errcode_of(asked).await, errcode, "{query}");
    }
    assert_eq!(errcode_of(wechat.call(Method::POST, &asked)).await, 43001);
}

#[tokio::test]
async fn a_stable_token_is_the_same_one_again_and_apart_from_the_other_call() {
    let wechat = Wechat::start().await;
    let asked = |change: Value| {
        let mut body = json!({"grant_type": "client_credential", "appid": APPID, "secret": "s"});
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        wechat.post("/cgi-bin/stable_token", &body)
    };
    let first = json_of(asked(json!({}))).await;
    let again = json_of(asked(json!({"force_refresh": false}))).await;
    assert_eq!(first["access_token"], again["access_token"]);
    assert!(again["expires_in"].as_u64().unwrap() > 7100);
    assert_ne!(first["access_token"], wechat.access_token().await);
    let forced = json_of(asked(json!({"force_refresh": true}))).await;
    assert_ne!(first["access_token"], forced["access_token"]);
    let dead = wechat.picture(&string(&first, "access_token"), &json!({"scene": SCENE}));
    assert_eq!(errcode_of(dead).await, 40001);

    for (change, errcode) in [
        (json!({"grant_type": "x"}), 40002),
        (json!({"appid": null}), 41002),
        (json!({"secret": null}), 41004),
        (json!({"force_refresh": "true"}), 47001),
    ] {
        assert_eq!(errcode_of(asked(change.clone())).await, errcode, "{change}");
    }
    assert_eq!(errcode_of(wechat.get("/cgi-bin/stable_token")).await, 43002);
    let form = wechat
        .call(Method::POST, "/cgi-bin/stable_token")
        .body("appid=a&secret=s");
    assert_eq!(errcode_of(form).await, 47001);
}

#[tokio::test]
async fn a_simulator_with_credentials_of_its_own_refuses_others() {
    let wechat = Wechat::start_with(|settings| {
        settings.appid = Some(APPID.to_owned());
        settings.secret = Some("right".into());
    });
    let wechat = wechat.await;
    let code = wechat.login(json!({})).await;
    for (appid, secret, errcode) in [
        ("wxother", "right", 40013),
        (APPID, "wrong", 40125),
        (APPID, "right", 0),
    ] {
        let token = format!("/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}");
        let session =
            format!("/sns/jscode2session?appid={appid}&secret={secret}&js_code={code}&grant_type=authorization_code");
        for path in [token, session] {
            let answer = json_of(wechat.get(&path)).await;
            assert_eq!(answer["errcode"].as_i64().unwrap_or(0), errcode, "{path}");
        }
    }
}

#[tokio::test]
async fn the_jpeg_and_the_png_hold_the_phones_address() {
    let wechat = Wechat::start().await;
    let token = wechat.access_token().await;
    let phone = format!("{}simulator/phone?scene={SCENE}", wechat.served.url);

    let response = wechat
        .picture(&token, &json!({"scene": SCENE, "page": "pages/confirm/confirm"}))
        .send();
    let response = response.await.unwrap();
    assert_eq!(content_type(&response), "image/jpeg");
    let mut jpeg = JpegDecoder::new(ZCursor::new(response.bytes().await.unwrap()));
    let rgb = jpeg.decode().unwrap();
    assert_eq!(jpeg.dimensions(), Some((430, 430)));
    let luma: Vec<u8> = rgb.chunks_exact(3).map(|pixel| pixel[1]).collect();
    assert_eq!(scanned(430, &luma), phone);

    let body = json!({"scene": SCENE, "width": 300, "is_hyaline": true, "line_color": {"r": 0, "g": 0, "b": 160}});
    let response = wechat.picture(&token, &body).send().await.unwrap();
    assert_eq!(content_type(&response), "image/jpeg", "the header says so of a PNG too");
    let bytes = std::io::Cursor::new(response.bytes().await.unwrap());
    let mut png = png::Decoder::new(bytes).read_info().unwrap();
    let mut rgba = vec![0; png.output_buffer_size().unwrap()];
    png.next_frame(&mut rgba).unwrap();
    assert!(rgba.chunks_exact(4).any(|pixel| pixel == [0, 0, 160, 255]));
    let luma: Vec<u8> = rgba
        .chunks_exact(4)
        .map(|pixel| if pixel[3] == 0 { 255 } else { pixel[1] })
        .collect();
    assert_eq!(scanned(300, &luma), phone);
}

#[tokio::test]
async fn every_scene_that_wechat_allows_reaches_the_phone_as_it_was() {
    let wechat = Wechat::start().await;
    let token = wechat.access_token().await;
    let scene = "!#$&'()*+,/:;=?@-._~aZ09";
    let response = wechat.picture(&token, &json!({"scene": scene})).send().await.unwrap();
    let mut jpeg = JpegDecoder::new(ZCursor::new(response.bytes().await.unwrap()));
    let luma: Vec<u8> = jpeg.decode().unwrap().chunks_exact(3).map(|pixel| pixel[1]).collect();
    let phone: Url = scanned(430, &luma).parse().unwrap();
    let query: Vec<_> = phone.query_pairs().into_owned().collect();
    assert_eq!(query, [("scene".to_owned(), scene.to_owned())]);
}

#[tokio::test]
async fn a_picture_asked_for_wrongly_is_refused_as_wechat_does() {
    let wechat = Wechat::start().await;
    let token = wechat.access_token().await;
    for (body, errcode) in [
        (json!({}), 40169),
        (json!({"scene": ""}), 40169),
        (json!({"scene": "a".repeat(33)}), 40169),
        (json!({"scene": "a b"}), 40129),
        (json!({"scene": "a%20b"}), 40129),
        (json!({"scene": "扫码"}), 40129),
        (json!({"scene": 42}), 47001),
        (json!({"scene": "a", "check_path": "false"}), 47001),
        (json!({"scene": "a", "is_hyaline": 1}), 47001),
        (json!({"scene": "a", "width": "430"}), 47001),
        (json!({"scene": "a", "check_page": false}), 47001),
        (json!({"scene": "a", "line_color": {"r": 256}}), 47001),
        (json!([]), 47001),
        (json!({"scene": "a", "page": "/pages/index/index"}), 41030),
        (json!({"scene": "a", "page": "pages/index/index?a=1"}), 41030),
        (json!({"scene": "a", "page": "pages/index/index.html"}), 41030),
        (json!({"scene": "a", "env_version": "beta"}), 40097),
        (json!({"scene": "a", "width": 279}), 40189),
        (json!({"scene": "a", "width": 1281}), 40189),
        (json!({"scene": "scancode_time=1"}), 85096),
    ] {
        let response = wechat.picture(&token, &body).send().await.unwrap();
        assert_eq!(content_type(&response), "application/json; encoding=utf-8", "{body}");
        assert_eq!(errcode_of(wechat.picture(&token, &body)).await, errcode, "{body}");
    }
    let path = format!("/wxa/getwxacodeunlimit?access_token={token}");
    let form = wechat.call(Method::POST, &path).body("scene=a");
    assert_eq!(errcode_of(form).await, 40169);
    assert_eq!(errcode_of(wechat.get(&path)).await, 43002);
}

#[tokio::test]
async fn a_token_that_is_missing_malformed_unknown_or_revoked_is_told_apart() {
    let wechat = Wechat::start().await;
    let token = wechat.access_token().await;
    let unknown = "a".repeat(token.len());
    let body = json!({"scene": SCENE});
    for (access_token, errcode) in [("", 41001), ("short", 40014), (&unknown, 40001)] {
        assert_eq!(
            errcode_of(wechat.picture(access_token, &body)).await,
            errcode,
            "{access_token}"
        );
    }
    let revoked = wechat.call(Method::POST, "/simulator/revoke").send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    assert_eq!(errcode_of(wechat.picture(&token, &body)).await, 40001);
    let fresh = wechat.access_token().await;
    let response = wechat.picture(&fresh, &body).send().await.unwrap();
    assert_eq!(content_type(&response), "image/jpeg");
}

#[tokio::test]
async fn a_login_code_names_its_person_once() {
    let wechat = Wechat::start().await;
    let login = json_of(wechat.call(Method::POST, "/simulator/login")).await;
    let openid = string(&login, "openid");
    assert_eq!((openid.len(), openid.starts_with('o')), (28, true));
    let code = string(&login, "code");

    let response = wechat.exchange(&code).send().await.unwrap();
    assert_eq!(content_type(&response), "text/plain");
    let session: Value = response.json().await.unwrap();
    assert_eq!(session["openid"], openid);
    assert_eq!(session["unionid"], Value::Null);
    assert!(session["session_key"].is_string());
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 40163);
    assert_eq!(errcode_of(wechat.exchange("never-given")).await, 40029);

    let code = wechat
        .login(json!({"openid": "alice", "unionid": "alice-everywhere"}))
        .await;
    let session = json_of(wechat.exchange(&code)).await;
    assert_eq!(
        (&session["openid"], &session["unionid"]),
        (&json!("alice"), &json!("alice-everywhere"))
    );
    let code = wechat.login(json!({"appid": "wxother"})).await;
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 40029);

    for (query, errcode) in [
        ("secret=s&js_code=c&grant_type=authorization_code", 41002),
        ("appid=a&js_code=c&grant_type=authorization_code", 41004),
        ("appid=a&secret=s&grant_type=authorization_code", 41008),
        ("appid=a&secret=s&js_code=c", 40002),
    ] {
        let asked = wechat.get(&format!("/sns/jscode2session?{query}"));
        assert_eq!(errcode_of(asked).await, errcode, "{query}");
    }
}

#[tokio::test]
async fn success_has_an_errcode_or_none_and_too_many_logins_of_one_person_have_45011() {
    let wechat = Wechat::start().await;
    let mut with_errcode = 0;
    for _ in 0..100 {
        let code = wechat.login(json!({"openid": "alice"})).await;
        let session = json_of(wechat.exchange(&code)).await;
        assert_eq!(session["openid"], "alice");
        with_errcode += usize::from(session["errcode"] == 0);
    }
    assert!((1..100).contains(&with_errcode), "{with_errcode} of 100");
    let code = wechat.login(json!({"openid": "alice"})).await;
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 45011);
    let code = wechat.login(json!({"openid": "bob"})).await;
    assert_eq!(json_of(wechat.exchange(&code)).await["openid"], "bob");
}

#[tokio::test]
async fn a_fault_answers_instead_of_the_call_which_then_was_not_done() {
    let wechat = Wechat::start().await;
    let code = wechat.login(json!({})).await;
    wechat
        .fault(json!({"call": "jscode2session", "times": 2, "errcode": 40226}))
        .await;
    wechat.fault(json!({"call": "jscode2session", "status": 503})).await;
    wechat.fault(json!({"call": "jscode2session", "body": ""})).await;
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 40226);
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 40226);
    let response = wechat.exchange(&code).send().await.unwrap();
    assert_eq!(
        (response.status(), content_type(&response)),
        (StatusCode::SERVICE_UNAVAILABLE, "text/html")
    );
    assert_eq!(wechat.exchange(&code).send().await.unwrap().bytes().await.unwrap(), "");
    assert!(json_of(wechat.exchange(&code)).await["openid"].is_string());

    let error = json!({"errcode": 45009, "errmsg": "quota"}).to_string();
    wechat.fault(json!({"call": "getwxacodeunlimit", "body": error})).await;
    let response = wechat.picture("", &json!({})).send().await.unwrap();
    assert_eq!(content_type(&response), "image/jpeg", "JSON under a picture's type");
    assert_eq!(response.bytes().await.unwrap(), error);

    wechat.fault(json!({"call": "token", "times": 9, "errcode": -1})).await;
    let forgotten = wechat.call(Method::DELETE, "/simulator/faults").send().await.unwrap();
    assert_eq!(forgotten.status(), StatusCode::NO_CONTENT);
    assert_eq!(wechat.access_token().await.len(), 157);
}

#[tokio::test]
async fn a_picture_may_come_cut_short_or_break_off() {
    let wechat = Wechat::start().await;
    let token = wechat.access_token().await;
    let picture = || async {
        let response = wechat.picture(&token, &json!({"scene": SCENE})).send().await.unwrap();
        let declared = response.content_length().unwrap();
        (declared, response.bytes().await)
    };
    let (whole, bytes) = picture().await;
    assert_eq!(bytes.unwrap().len() as u64, whole);
    wechat
        .fault(json!({"call": "getwxacodeunlimit", "truncate": true}))
        .await;
    let (declared, bytes) = picture().await;
    assert_eq!((declared, bytes.unwrap().len() as u64), (whole / 2, whole / 2));
    wechat.fault(json!({"call": "getwxacodeunlimit", "reset": true})).await;
    let (declared, bytes) = picture().await;
    assert_eq!(declared, whole);
    assert!(bytes.is_err(), "the connection ended before the body did");
}

#[tokio::test]
async fn a_call_whose_answer_is_late_or_lost_was_done_all_the_same() {
    let wechat = Wechat::start().await;
    let code = wechat.login(json!({})).await;
    wechat
        .fault(json!({"call": "jscode2session", "delay_ms": 60_000}))
        .await;
    let impatient = wechat.exchange(&code).timeout(Duration::from_millis(200)).send().await;
    assert!(impatient.unwrap_err().is_timeout());
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 40163);

    let code = wechat.login(json!({})).await;
    wechat.fault(json!({"call": "jscode2session", "reset": true})).await;
    assert!(wechat.exchange(&code).send().await.unwrap().bytes().await.is_err());
    assert_eq!(errcode_of(wechat.exchange(&code)).await, 40163);
}

#[tokio::test]
async fn with_a_fault_rate_calls_misbehave_by_themselves_and_an_error_leaves_the_code_good() {
    let wechat = Wechat::start_with(|settings| settings.fault_rate = 0.5).await;
    let (mut errors, mut lost) = (0, 0);
    for _ in 0..40 {
        let code = wechat.login(json!({})).await;
        let mut broke_off = false;
        loop {
            let response = wechat.exchange(&code).send().await.unwrap();
            let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
            let Ok(body) = response.bytes().await else {
                broke_off = true;
                lost += 1;
                continue;
            };
            let answer = serde_json::from_slice(&body).unwrap_or(json!({"errcode": -1}));
            if unavailable || answer["errcode"] == -1 {
                errors += 1;
                continue;
            }
            let done_before = answer["errcode"] == 40163;
            assert_eq!(done_before, broke_off, "{answer}");
            break;
        }
    }
    assert!(errors > 0 && lost > 0, "{errors} errors, {lost} lost answers");
}

#[tokio::test]
async fn the_record_tells_what_was_called_newest_last() {
    let wechat = Wechat::start().await;
    let token = wechat.access_token().await;
    wechat.picture(&token, &json!({"scene": SCENE})).send().await.unwrap();
    wechat
        .fault(json!({"call": "getwxacodeunlimit", "errcode": 42001}))
        .await;
    wechat.picture(&token, &json!({"scene": SCENE})).send().await.unwrap();
    wechat.exchange("never-given").send().await.unwrap();
    wechat.fault(json!({"call": "stable_token", "status": 500})).await;
    wechat.get("/cgi-bin/stable_token").send().await.unwrap();

    let mut calls = wechat.calls().await;
    for call in &mut calls {
        let at = call.as_object_mut().unwrap().remove("at").unwrap();
        at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    let tail = &token[token.len() - 6..];
    let expected = json!([
        {"call": "token", "errcode": 0, "status": 200, "token_tail": tail},
        {"call": "getwxacodeunlimit", "errcode": 0, "status": 200, "token_tail": tail},
        {"call": "getwxacodeunlimit", "errcode": 42001, "status": 200, "token_tail": tail},
        {"call": "jscode2session", "errcode": 40029, "status": 200},
        {"call": "stable_token", "errcode": 0, "status": 500},
    ]);
    assert_eq!(Value::Array(calls), expected);
}

#[tokio::test]
async fn a_bad_order_is_told_what_is_wrong_with_it() {
    let wechat = Wechat::start().await;
    for (path, body, named) in [
        ("/simulator/faults", json!({"errcode": -1}), "call"),
        (
            "/simulator/faults",
            json!({"call": "no_such_call", "errcode": -1}),
            "no_such_call",
        ),
        ("/simulator/faults", json!({"call": "token"}), "delay_ms"),
        (
            "/simulator/faults",
            json!({"call": "token", "delay_ms": "1"}),
            "delay_ms",
        ),
        ("/simulator/faults", json!({"call": "token", "status": 700}), "status"),
        ("/simulator/login", json!({"openid": 1}), "openid"),
        ("/simulator/login", json!([1]), "object"),
        ("/simulator/login", json!({"openid": "小明"}), "openid"),
        ("/simulator/login", json!({"unionid": ""}), "unionid"),
    ] {
        let response = wechat.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(content_type(&response), "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "invalid_request");
        assert!(string(&problem, "detail").contains(named), "{problem}");
    }
    let form = wechat.call(Method::POST, "/simulator/login").body("openid=alice");
    assert_eq!(form.send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = json!({"openid": "a".repeat(65_536)});
    let response = wechat.post("/simulator/login", &long).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let wrong = wechat.get("/simulator/revoke").send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header_of(&wrong, header::ALLOW), "POST");
    assert_eq!(content_type(&wrong), "application/problem+json");
}

#[tokio::test]
async fn the_phones_page_runs_only_its_own_scripts() {
    let wechat = Wechat::start().await;
    let page = wechat.get("/simulator/phone?scene=a").send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(content_type(&page), "text/html; charset=utf-8");
    let policy = header_of(&page, header::CONTENT_SECURITY_POLICY);
    assert_eq!(
        policy,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: http://127.0.0.1:* http://localhost:*; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(header_of(&page, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    assert_eq!(header_of(&page, header::REFERRER_POLICY), "no-referrer");
    assert_eq!(header_of(&page, header::CACHE_CONTROL), "no-cache");

    let file = wechat.get("/simulator/assets/phone/index.html");
    let etag = header_of(&file.send().await.unwrap(), header::ETAG).to_owned();
    let again = wechat
        .get("/simulator/assets/phone/index.html")
        .header(header::IF_NONE_MATCH, etag);
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    for path in [
        "phone/none.js",
        "phone/..%2Fshared%2F.keep",
        "shared/..%2F..%2FCargo.toml",
        "shared/.keep",
    ] {
        let missing = wechat.get(&format!("/simulator/assets/{path}")).send().await.unwrap();
        assert_eq!(missing.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

/// A service that answers with what it was asked.
async fn echo(request: Request) -> impl IntoResponse {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::SET_COOKIE, "a=1".parse().unwrap());
    headers.insert(header::RETRY_AFTER, "7".parse().unwrap());
    headers.insert(header::LOCATION, "/elsewhere".parse().unwrap());
    let (status, body) = match parts.uri.path() {
        "/scenes/moved" => (StatusCode::FOUND, Bytes::new()),
        "/scenes/large" => (StatusCode::OK, Bytes::from(vec![0; 200_000])),
        _ => {
            let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let echoed = json!({
                "method": parts.method.as_str(),
                "uri": parts.uri.to_string(),
                "authorization": header("authorization"),
                "content_type": header("content-type"),
                "cookie": header("cookie"),
                "origin": header("origin"),
                "referer": header("referer"),
                "x_forwarded_for": header("x-forwarded-for"),
                "body_len": body.len(),
            });
            (StatusCode::CONFLICT, Bytes::from(echoed.to_string()))
        }
    };
    (status, headers, body)
}

#[tokio::test]
async fn the_phone_reaches_the_service_as_a_mini_program_would() {
    let service = Served::start(|_| Router::new().fallback(echo)).await;
    let wechat = Wechat::start_with(|settings| settings.service_url = service.url.clone()).await;
    let avatar = wechat
        .call(Method::PUT, "/simulator/service/scenes/abc/avatar?x=1")
        .body(vec![0; 100_000]);
    let avatar = avatar
        .header(header::AUTHORIZATION, "Bearer t")
        .header(header::CONTENT_TYPE, "image/png")
        .header(header::COOKIE, "scanlogin_abc=secret")
        .header(header::ORIGIN, "https://elsewhere.example")
        .header(header::REFERER, "https://elsewhere.example/page");
    let response = avatar.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CONFLICT);
    assert_eq!(header_of(&response, header::RETRY_AFTER), "7");
    assert_eq!(header_of(&response, header::SET_COOKIE), "");
    let expected = json!({
        "method": "PUT",
        "uri": "/scenes/abc/avatar?x=1",
        "authorization": "Bearer t",
        "content_type": "image/png",
        "cookie": null,
        "origin": null,
        "referer": null,
        "x_forwarded_for": null,
        "body_len": 100_000,
    });
    assert_eq!(response.json::<Value>().await.unwrap(), expected);

    for (method, path, status) in [
        (Method::DELETE, "scenes/abc", StatusCode::CONFLICT),
        (Method::PATCH, "scenes/abc", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "scenes/large", StatusCode::BAD_GATEWAY),
        (Method::POST, "token", StatusCode::NOT_FOUND),
        (Method::POST, "scenes", StatusCode::NOT_FOUND),
        (Method::POST, "scenes/..%2ftoken", StatusCode::NOT_FOUND),
        (Method::POST, "scenes/%2e%2e/token", StatusCode::NOT_FOUND),
    ] {
        let response = wechat
            .call(method, &format!("/simulator/service/{path}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
    let large = wechat
        .call(Method::PUT, "/simulator/service/scenes/abc/avatar")
        .body(vec![0; 128 * 1024 + 1]);
    assert_eq!(large.send().await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn the_simulator_follows_no_redirect_and_says_when_the_service_is_away() {
    let service = Served::start(|_| Router::new().fallback(echo)).await;
    let wechat = Wechat::start_with(|settings| settings.service_url = service.url.clone()).await;
    let moved = wechat.get("/simulator/service/scenes/moved").send().await.unwrap();
    assert_eq!(moved.status(), StatusCode::FOUND);

    let nowhere: Url = format!("http://{}", free_addr()).parse().unwrap();
    let wechat = Wechat::start_with(|settings| settings.service_url = nowhere).await;
    let away = wechat
        .post("/simulator/service/scenes/abc/scan", &json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(away.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(content_type(&away), "application/problem+json");
    let problem: Value = away.json().await.unwrap();
    assert!(string(&problem, "detail").contains("cannot be reached"), "{problem}");
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_said_in_one_line_that_names_the_setting() {
    let taken = Served::start(|_| Router::new()).await;
    let args = || SimulateArgs {
        listen: "127.0.0.1:0".to_owned(),
        service_url: "http://127.0.0.1:8080".to_owned(),
        public_url: None,
        fault_rate: 0.0,
        seed: Some(1),
        appid: None,
        secret: None,
    };
    let listen = taken.url.authority().to_owned();
    let public_url = Some("https://login.example/path".to_owned());
    for (args, named) in [
        (SimulateArgs { listen, ..args() }, "--listen 127.0.0.1:"),
        (
            SimulateArgs {
                listen: "nonsense".to_owned(),
                ..args()
            },
            "--listen nonsense",
        ),
        (
            SimulateArgs {
                service_url: "8080".to_owned(),
                ..args()
            },
            "--service-url 8080",
        ),
        (
            SimulateArgs {
                service_url: "ftp://a".to_owned(),
                ..args()
            },
            "--service-url ftp://a",
        ),
        (
            SimulateArgs { public_url, ..args() },
            "--public-url https://login.example/path",
        ),
        (
            SimulateArgs {
                fault_rate: 1.5,
                ..args()
            },
            "fault rate 1.5",
        ),
    ] {
        let error = run(args, CancellationToken::new()).await.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[tokio::test]
async fn it_serves_both_sides_on_one_listener_until_told_to_stop() {
    let named = async |request: Request| request.headers()["x-request-id"].to_str().unwrap().to_owned();
    let service = Served::start(|_| Router::new().fallback(named)).await;
    let addr = free_addr();
    let shutdown = CancellationToken::new();
    let args = SimulateArgs {
        listen: addr.to_string(),
        service_url: service.url.to_string(),
        public_url: None,
        fault_rate: 0.0,
        seed: None,
        appid: None,
        secret: None,
    };
    let running = TaskTracker::new().spawn(run(args, shutdown.clone()));
    let http = client();
    for path in ["simulator/calls", "cgi-bin/token"] {
        crate::support::eventually("it answers", || async {
            http.get(format!("http://{addr}/{path}"))
                .send()
                .await
                .ok()
                .filter(|answer| answer.status().is_success())
        })
        .await;
    }
    for path in ["simulator/calls", "cgi-bin/token", "sns/jscode2session", "nothing"] {
        let named = http.get(format!("http://{addr}/{path}")).header("x-request-id", "mine");
        let answer = named.send().await.unwrap();
        assert_eq!(
            header_of(&answer, header::HeaderName::from_static("x-request-id")),
            "mine"
        );
        assert_eq!(header_of(&answer, header::CACHE_CONTROL), "no-store", "{path}");
    }
    let forwarded = http.get(format!("http://{addr}/simulator/service/scenes/abc"));
    let answer = forwarded.send().await.unwrap();
    let own = header_of(&answer, header::HeaderName::from_static("x-request-id")).to_owned();
    assert_eq!(answer.text().await.unwrap(), own, "the service hears the same name");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
