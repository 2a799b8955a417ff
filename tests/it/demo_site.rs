//! The demo site's page, at the one address where its cookies and its origin are right.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::redis::RedisServer;
use crate::support::reply::Reply;
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
