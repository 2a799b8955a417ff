//! The demo site's page, at the one address where its cookies and its origin are right.

use reqwest::RequestBuilder;
use scanlogin::scene::s256;
use serde_json::{Value, json};

use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
use crate::support::roles::{Browser, VERIFIER};
use crate::support::service::Service;

fn by_name(service: &Service, name: &str) -> RequestBuilder {
    let (_, port) = service.base.rsplit_once(':').unwrap();
    service.get("/").header("host", format!("{name}:{port}"))
}

#[tokio::test]
async fn another_name_of_this_machine_leads_to_the_public_url() {
    let service = Service::start().await;
    for name in ["localhost", "LocalHost", "127.0.0.2", "[::1]"] {
        let led = Reply::to(by_name(&service, name)).await;
        let location = format!("{}/", service.public_url);
        assert_eq!((led.status, led.header("location")), (307, location.as_str()), "{name}");
        assert_eq!(led.header("cache-control"), "no-store");
    }
    let (_, port) = service.base.rsplit_once(':').unwrap();
    let with_query = service.get("/?lang=zh").header("host", format!("localhost:{port}"));
    let led = Reply::to(with_query).await;
    assert_eq!(led.header("location"), format!("{}/?lang=zh", service.public_url));
}

#[tokio::test]
async fn the_public_url_itself_and_what_is_not_this_machine_get_the_page() {
    let service = Service::start().await;
    for name in ["127.0.0.1", "login.example", "localhost.example", "192.168.1.7"] {
        assert_eq!(Reply::to(by_name(&service, name)).await.status, 200, "{name}");
    }
    for host in ["localhost", "localhost:1", "localhost:x", "local host", ""] {
        let other_port = service.get("/").header("host", host);
        assert_eq!(Reply::to(other_port).await.status, 200, "{host:?}");
    }
    let public = Service::builder()
        .with("PUBLIC_URL", "https://login.example")
        .with("SIMULATOR", true)
        .start()
        .await;
    assert_eq!(Reply::to(by_name(&public, "localhost")).await.status, 200);
}

#[tokio::test]
async fn with_sites_of_its_own_the_service_has_no_page_to_lead_to() {
    let service = Service::builder().with("CLIENT_SECRET", "s3cret").start().await;
    let told = Reply::to(by_name(&service, "localhost")).await;
    assert_eq!(told.status, 200);
    assert!(told.text().contains("scanlogin"), "{}", told.text());
}

#[tokio::test]
async fn the_simulated_phone_is_offered_where_the_browser_reaches_it() {
    let redis = RedisServer::start();
    let beside = Service::builder().redis(&redis).start().await;
    let offered = async |service: &Service| {
        let started = Reply::to(service.post("/demo/start", &json!({}))).await.ok();
        started["simulated_phone_url"].clone()
    };
    let phone = offered(&beside).await;
    let page = Reply::to(beside.http.get(phone.as_str().unwrap())).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );

    let elsewhere = beside
        .replica()
        .with("PUBLIC_URL", "https://login.example")
        .start()
        .await;
    assert_eq!(
        offered(&elsewhere).await,
        Value::Null,
        "nobody else reaches this machine's loopback"
    );
    assert_eq!(offered(&Service::start().await).await, "/simulator/phone");
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_told_so_and_there_are_no_files_but_the_pages() {
    let service = Service::start().await;
    for path in [
        "/",
        "/assets/demo/demo.js",
        "/assets/shared/base.css",
        "/assets/shared/icon.svg",
        "/web/v1/scan-login.js",
    ] {
        let given = Reply::to(service.get(path)).await;
        assert_eq!(
            (given.status, given.header("cache-control")),
            (200, "no-cache"),
            "{path}"
        );
        let etag = given.header("etag");
        for known in [etag.to_owned(), format!("W/{etag}"), format!("\"other\", {etag}")] {
            let again = Reply::to(service.get(path).header("if-none-match", known)).await;
            assert_eq!(
                (again.status, again.body.len(), again.header("etag")),
                (304, 0, etag),
                "{path}"
            );
        }
        let other = Reply::to(service.get(path).header("if-none-match", "\"other\"")).await;
        assert_eq!(other.status, 200, "{path}");
    }
    for path in [
        "..%2F..%2FCargo.toml",
        "shared/..%2F..%2FCargo.toml",
        "demo",
        "%2Fetc%2Fpasswd",
        "demo/%00",
    ] {
        let missing = Reply::to(service.get(&format!("/assets/{path}"))).await;
        missing.problem(404, "not_found");
    }
}

#[tokio::test]
async fn the_web_component_is_loaded_by_pages_of_any_origin_and_nothing_else_is() {
    let service = Service::builder()
        .config_toml("[[client]]\nclient_id = \"blog\"\norigins = [\"https://blog.example\"]")
        .start()
        .await;
    let component = || service.get("/web/v1/scan-login.js");
    for (origin, allowed) in [
        (Some("https://blog.example"), "https://blog.example"),
        (Some("https://elsewhere.example"), "*"),
        (Some("null"), "*"),
        (None, "*"),
    ] {
        let request = match origin {
            Some(origin) => component().header("origin", origin),
            None => component(),
        };
        let given = Reply::to(request).await;
        assert_eq!(
            (given.status, given.header("content-type")),
            (200, "text/javascript; charset=utf-8")
        );
        assert_eq!(
            given.header("access-control-allow-origin"),
            allowed,
            "{origin:?} may read it"
        );
        assert_eq!(given.header("cross-origin-resource-policy"), "cross-origin");
        assert_eq!(given.header("x-content-type-options"), "nosniff");
        assert!(given.headers.get("set-cookie").is_none());
    }
    let etag = Reply::to(component()).await.header("etag").to_owned();
    let unchanged = component()
        .header("if-none-match", etag)
        .header("origin", "https://elsewhere.example");
    let unchanged = Reply::to(unchanged).await;
    assert_eq!(
        (unchanged.status, unchanged.header("access-control-allow-origin")),
        (304, "*")
    );
    for path in ["/web/v2/scan-login.js", "/web/v1/", "/web/v1/package.json"] {
        Reply::to(service.get(path)).await.problem(404, "not_found");
    }
}

/// What is sent to somebody who takes this, and what it is once unpacked.
async fn unpacked(service: &Service, path: &str, accepted: &str) -> (Reply, Vec<u8>) {
    let reply = Reply::to(service.get(path).header("accept-encoding", accepted)).await;
    let plain = match reply.header("content-encoding") {
        "" => reply.body.to_vec(),
        coding => {
            assert_eq!(coding, "gzip", "{path}");
            scanlogin::web::gzip::unpack(&reply.body).expect("gzip").to_vec()
        }
    };
    (reply, plain)
}

fn varies(reply: &Reply) -> bool {
    let lines = reply.headers.get_all("vary").iter();
    let mut names = lines.flat_map(|line| line.to_str().unwrap().split(','));
    names.any(|name| name.trim().eq_ignore_ascii_case("accept-encoding"))
}

#[tokio::test]
async fn files_are_sent_as_gzip_to_who_takes_it_and_to_nobody_else() {
    let service = Service::start().await;
    for path in [
        "/",
        "/assets/demo/demo.js",
        "/assets/shared/base.css",
        "/assets/shared/icon.svg",
        "/web/v1/scan-login.js",
        "/simulator/phone",
        "/openapi/",
        "/openapi/swagger-ui.css",
        "/openapi/swagger-ui-bundle.js",
        "/openapi.json",
    ] {
        let (bare, plain) = unpacked(&service, path, "identity").await;
        assert_eq!((bare.status, bare.header("content-encoding")), (200, ""), "{path}");
        let silent = Reply::to(service.get(path)).await;
        assert_eq!(
            (silent.header("content-encoding"), &*silent.body),
            ("", &*plain),
            "{path}"
        );
        let (refused, _) = unpacked(&service, path, "gzip;q=0, br").await;
        assert_eq!(refused.header("content-encoding"), "", "{path}");
        let (packed, same) = unpacked(&service, path, "gzip, deflate, br, zstd").await;
        assert_eq!(
            (packed.status, packed.header("content-encoding")),
            (200, "gzip"),
            "{path}"
        );
        assert!(same == plain && packed.body.len() < plain.len(), "{path}");
        assert_eq!(packed.header("content-type"), bare.header("content-type"), "{path}");
        assert!(varies(&packed) && varies(&bare), "{path}: {:?}", bare.headers);
        let etag = packed.header("etag");
        if !etag.is_empty() {
            assert_ne!(etag, bare.header("etag"), "{path}");
            let known = service.get(path).header("if-none-match", etag);
            let again = Reply::to(known.header("accept-encoding", "gzip")).await;
            assert_eq!((again.status, again.header("etag")), (304, etag), "{path}");
            assert!(varies(&again) && again.header("content-encoding").is_empty(), "{path}");
        }
    }
    let by_page = service
        .get("/web/v1/scan-login.js")
        .header("origin", "https://blog.example");
    let component = Reply::to(by_page.header("accept-encoding", "gzip")).await;
    assert!(varies(&component), "{:?}", component.headers);
    assert!(component.body.len() < 10_000, "{}", component.body.len());
}

/// Beside words of others, what a secret is could be read from how far an answer shrinks.
#[tokio::test]
async fn nothing_that_is_of_one_browser_is_ever_packed() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let status = format!("/scenes/{}", browser.scene);
    for call in [
        service.get("/.well-known/openid-configuration"),
        service.get("/demo/profile"),
        service.get("/problems"),
        service.get(&format!("/authorize?state={}", "a".repeat(4_000))),
        service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) })),
        service.get(&status).bearer_auth(&browser.secret),
        service.get(&format!("{status}/code")),
    ] {
        let reply = Reply::to(call.header("accept-encoding", "gzip")).await;
        assert_eq!(reply.header("content-encoding"), "", "{}", reply.text());
        assert!(reply.status < 500 && !reply.body.is_empty());
    }
    let stream = service
        .get(&format!("/events/{}", browser.scene))
        .bearer_auth(&browser.secret);
    let stream = stream.header("accept-encoding", "gzip").send().await.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert!(stream.headers().get("content-encoding").is_none());
}
