//! Whose page may call: cookies, origins, and what other sites' scripts may read.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::reply::Reply;
use crate::support::roles::Browser;
use crate::support::service::Service;

#[tokio::test]
async fn the_browsers_cookie_opens_its_scene_from_the_services_own_pages_and_listed_ones_only() {
    let service = Service::builder()
        .config_toml(
            r#"
            [[client]]
            client_id = "blog"
            client_secret = "s3cret"
            origins = ["https://blog.example"]
            "#,
        )
        .start()
        .await;
    let browser = Browser::start_with(&service, json!({})).await;
    let (name, secret) = (format!("scanlogin_{}", browser.scene), &browser.secret);
    let mut parts: Vec<&str> = browser.set_cookie.split("; ").collect();
    assert_eq!(parts.remove(0), format!("{name}={secret}"));
    parts.sort_unstable();
    assert_eq!(parts, ["HttpOnly", "Max-Age=180", "Path=/", "SameSite=Lax"]);

    let own = service.public_url.as_str();
    for (headers, status) in [
        (vec![], 200),
        (vec![("origin", own)], 200),
        (vec![("origin", "https://blog.example")], 200),
        (vec![("sec-fetch-site", "same-origin")], 200),
        (vec![("sec-fetch-site", "none")], 200),
        (
            vec![("origin", "https://blog.example"), ("sec-fetch-site", "cross-site")],
            200,
        ),
        (vec![("origin", "https://evil.example")], 403),
        (vec![("origin", "https://blog.example.evil.example")], 403),
        (vec![("origin", "http://blog.example")], 403),
        (vec![("origin", "null")], 403),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("sec-fetch-site", "same-site")], 403),
    ] {
        let with_cookie = service.get(&format!("/scenes/{}", browser.scene));
        let mut request = with_cookie.header("cookie", format!("a=b; {name}={secret}"));
        let mut start = service.post("/scenes", &json!({}));
        for (name, value) in &headers {
            request = request.header(*name, *value);
            start = start.header(*name, *value);
        }
        let (read, started) = (Reply::to(request).await, Reply::to(start).await);
        if status == 200 {
            read.ok();
            assert_eq!(started.status, 201, "{headers:?}");
        } else {
            read.problem(403, "origin_not_allowed");
            started.problem(403, "origin_not_allowed");
        }
    }
}

#[tokio::test]
async fn behind_https_the_cookie_is_bound_to_this_very_host() {
    let service = Service::builder()
        .with("PUBLIC_URL", "https://login.example")
        .with("SIMULATOR", true)
        .start()
        .await;
    let browser = Browser::start(&service).await;
    let name = format!("__Host-scanlogin_{}", browser.scene);
    assert!(
        browser.set_cookie.starts_with(&format!("{name}=")),
        "{}",
        browser.set_cookie
    );
    assert!(browser.set_cookie.contains("; Secure"), "{}", browser.set_cookie);
    let urls: Vec<&Value> = ["code_url", "events_url", "status_url"]
        .map(|url| &browser.started[url])
        .into();
    for url in urls {
        assert!(url.as_str().unwrap().starts_with("https://login.example/"), "{url}");
    }
    let read = |name: &str| {
        let request = service.get(&format!("/scenes/{}", browser.scene));
        request.header("cookie", format!("{name}={}", browser.secret))
    };
    Reply::to(read(&name)).await.ok();
    let without_prefix = Reply::to(read(&format!("scanlogin_{}", browser.scene))).await;
    without_prefix.problem(401, "browser_secret_required");
}

#[tokio::test]
async fn an_origin_that_no_client_lists_is_named_in_the_log_with_what_to_do() {
    let service = Service::builder()
        .with("CLIENT_SECRET", "s3cret")
        .with("CLIENT_ORIGINS", "https://blog.example")
        .start()
        .await;
    let preflight = async |origin: &str| {
        let asked = service.call(Method::OPTIONS, "/scenes").header("origin", origin);
        let reply = Reply::to(asked.header("access-control-request-method", "POST")).await;
        assert!(reply.status < 300);
    };
    let long = format!("https://{}.example", "a".repeat(500));
    for origin in [
        "https://blog.example",
        "null",
        "no origin",
        "https://a.example/path",
        &long,
    ] {
        preflight(origin).await;
    }
    for _ in 0..3 {
        preflight("https://www.blog.example").await;
    }
    // What needs no preflight.
    let simple = service
        .call(Method::POST, "/scenes")
        .header("origin", "http://shop.example");
    Reply::to(simple).await.problem(403, "origin_not_allowed");
    let named = service.log().line_with(&["http://shop.example"]).await;
    assert!(named.contains("WARN"), "{named}");
    // The service's own pages are at its own address; those that it has elsewhere by mistake need another setting.
    preflight(&service.public_url).await;
    let elsewhere = service.public_url.replace("127.0.0.1", "localhost");
    let host = elsewhere.trim_start_matches("http://").to_owned();
    let own = service.call(Method::POST, "/scenes").header("origin", &elsewhere);
    Reply::to(own.header("host", host))
        .await
        .problem(403, "origin_not_allowed");
    service.log().line_with(&["SCANLOGIN_PUBLIC_URL", &elsewhere]).await;
    // A call that wants nothing of a page's is no sign of one.
    Reply::to(service.get("/jwks.json").header("origin", "https://quiet.example"))
        .await
        .ok();
    let lines = service.log().lines();
    assert!(!lines.iter().any(|line| line.contains("quiet.example")));
    let said: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("in no client's origins"))
        .collect();
    assert_eq!(said.len(), 2, "{said:#?}");
    assert!(said[0].contains("https://www.blog.example") && said[0].contains("SCANLOGIN_CLIENT_ORIGINS"));
}

#[tokio::test]
async fn a_preflight_is_answered_for_origins_that_a_client_lists_and_names_that_origin() {
    let service = Service::builder()
        .with("CLIENT_SECRET", "s3cret")
        .with("CLIENT_ORIGINS", "https://blog.example,https://www.blog.example")
        .start()
        .await;
    let preflight = service
        .call(Method::OPTIONS, "/scenes")
        .header("origin", "https://www.blog.example")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "content-type,authorization,last-event-id",
        );
    let listed = Reply::to(preflight).await;
    assert!(listed.status < 300);
    assert_eq!(listed.header("access-control-allow-origin"), "https://www.blog.example");
    assert_eq!(listed.header("access-control-allow-credentials"), "true");
    assert_eq!(listed.header("access-control-max-age"), "600");
    assert_eq!(listed.header("access-control-allow-methods"), "GET,POST,DELETE");
    let allowed = listed.header("access-control-allow-headers").to_ascii_lowercase();
    assert_eq!(
        allowed,
        "authorization,content-type,last-event-id,traceparent,tracestate"
    );
    let call = service
        .post("/scenes", &json!({}))
        .header("origin", "https://blog.example");
    let started = Reply::to(call).await;
    assert_eq!(started.status, 201);
    assert_eq!(started.header("access-control-allow-origin"), "https://blog.example");
    let exposed = started.header("access-control-expose-headers").to_ascii_lowercase();
    assert_eq!(exposed, "location,retry-after,x-request-id");
    let problem = service.get(&format!("/scenes/{}", "0".repeat(32)));
    let problem = Reply::to(problem.header("origin", "https://blog.example")).await;
    problem.problem(404, "unknown_scene");
    assert_eq!(
        problem.header("access-control-allow-origin"),
        "https://blog.example",
        "a page can read problems"
    );
}

#[tokio::test]
async fn a_listed_sites_page_can_read_every_answer_whatever_went_wrong() {
    let service = Service::builder()
        .with("CLIENT_SECRET", "s3cret")
        .with("CLIENT_ORIGINS", "https://blog.example")
        .start()
        .await;
    let large = json!({ "nonce": "x".repeat(17 * 1024) });
    for (request, status, code) in [
        (service.post("/scenes", &large), 413, "body_too_large"),
        (service.get("/nothing"), 404, "not_found"),
        (service.get("/scenes"), 405, "method_not_allowed"),
    ] {
        let refused = Reply::to(request.header("origin", "https://blog.example")).await;
        refused.problem(status, code);
        assert_eq!(refused.header("access-control-allow-origin"), "https://blog.example");
        assert_eq!(refused.header("access-control-allow-credentials"), "true");
    }
    let from_elsewhere = service.post("/scenes", &large).header("origin", "https://evil.example");
    let refused = Reply::to(from_elsewhere).await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn an_options_that_is_no_preflight_is_told_what_there_is() {
    let service = Service::start().await;
    let options = async |path: &str| Reply::to(service.call(Method::OPTIONS, path)).await;
    for path in ["/", "/scenes", "/demo/start"] {
        let refused = options(path).await;
        refused.problem(405, "method_not_allowed");
        assert_ne!(refused.header("allow"), "", "{path}");
    }
    options("/nothing").await.problem(404, "not_found");
}

/// Cookies may hold any bytes (RFC 6265 §4.1.1 asks servers not to send such, and browsers take them), and a host below the same domain
/// can leave them here.
#[tokio::test]
async fn somebody_elses_cookie_that_is_no_text_locks_nobody_out() {
    let service = Service::start().await;
    let browser = Browser::start(&service).await;
    let own = format!("scanlogin_{}={}", browser.scene, browser.secret);
    for cookies in [
        format!("lang=\u{4e2d}; {own}").into_bytes(),
        [own.as_bytes(), b"; lang=\xff\xfe; other=1"].concat(),
    ] {
        let cookies = reqwest::header::HeaderValue::from_bytes(&cookies).unwrap();
        let status = service
            .get(&format!("/scenes/{}", browser.scene))
            .header("cookie", cookies);
        assert_eq!(Reply::to(status).await.ok()["state"], "waiting");
    }
}
