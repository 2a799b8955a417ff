//! A browser that begins login after login, in one tab or many: what it is given to keep stays small enough to be sent.

use reqwest::RequestBuilder;
use scanlogin::scene::s256;
use serde_json::json;

use crate::support::events::EventStream;
use crate::support::reply::Reply;
use crate::support::roles::VERIFIER;
use crate::support::service::Service;

/// More than 16 KiB of cookies, if all were kept.
const LOGINS: usize = 200;

/// Of these the service may count on being kept.
const NEWEST: usize = 8;

/// No proxy takes less of cookies, or of an answer's headers.
const HEADERS_BYTES: usize = 4 * 1024;

/// What a browser keeps of one host, in the order in which it came and is sent (RFC 6265 §5.3, §5.4).
#[derive(Debug, Default)]
struct Jar(Vec<(String, String)>);

impl Jar {
    fn take(&mut self, reply: &Reply) {
        for line in reply.headers.get_all("set-cookie") {
            let (cookie, attributes) = line.to_str().unwrap().split_once("; ").unwrap();
            let (name, value) = cookie.split_once('=').unwrap();
            assert_eq!(attributes.contains("Secure"), name.starts_with("__Host-"), "{name}");
            let has_ended = attributes.split("; ").any(|attribute| attribute == "Max-Age=0");
            let kept = self.0.iter().position(|(kept, _)| kept == name);
            match kept {
                Some(at) if has_ended => drop(self.0.remove(at)),
                Some(at) => value.clone_into(&mut self.0[at].1),
                None if has_ended => panic!("{name} is to be forgotten, and was not sent"),
                None => self.0.push((name.to_owned(), value.to_owned())),
            }
        }
    }

    fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("cookie", self.line())
    }

    fn line(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }
}

fn start(service: &Service) -> RequestBuilder {
    service.post("/scenes", &json!({ "code_challenge": s256(VERIFIER) }))
}

/// The scene of a start that went well, and was told in few words.
fn scene_of(started: &Reply) -> String {
    assert_eq!(started.status, 201, "{}", started.text());
    let headers = started.headers.iter();
    let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    assert!(bytes < HEADERS_BYTES, "{bytes} bytes of headers");
    started.json()["scene"].as_str().unwrap().to_owned()
}

/// By its cookie alone, the newest scenes' streams open, and the one of the first does not any more.
async fn opens_the_newest(service: &Service, jar: &Jar, scenes: &[String]) {
    let events = |scene: &String| jar.add_to(service.get(&format!("/events/{scene}")));
    for scene in scenes.iter().rev().take(NEWEST) {
        let opened = events(scene).send().await.unwrap();
        assert_eq!(opened.status(), 200);
        EventStream::new(opened).next_is("waiting").await;
    }
    let forgotten = Reply::to(events(&scenes[0])).await;
    forgotten.problem(401, "browser_secret_required");
}

#[tokio::test]
async fn t29_a_browser_that_starts_scene_after_scene_never_locks_itself_out() {
    for url in [None, Some("https://login.example")] {
        let builder = Service::builder().with("SIMULATOR", url.is_some());
        let builder = url
            .into_iter()
            .fold(builder, |builder, url| builder.with("PUBLIC_URL", url));
        let service = builder.start().await;
        let mut jar = Jar::default();
        let own = ("of_the_site".to_owned(), "kept".to_owned());
        jar.0.push(own.clone());
        let mut scenes = Vec::new();
        for _ in 0..LOGINS {
            // As the demo's page does: it keeps the verifier of each login, too.
            let began = Reply::to(jar.add_to(service.post("/demo/start", &json!({})))).await;
            assert_eq!(began.status, 200, "{}", began.text());
            jar.take(&began);
            let started = Reply::to(jar.add_to(start(&service))).await;
            jar.take(&started);
            scenes.push(scene_of(&started));
            assert!(jar.line().len() < HEADERS_BYTES, "{} cookies", jar.0.len());
        }
        assert_eq!(jar.0[0], own, "somebody else's");
        opens_the_newest(&service, &jar, &scenes).await;
    }
}

#[tokio::test]
async fn t29_a_browser_that_started_many_scenes_at_once_is_soon_rid_of_most() {
    let service = Service::start().await;
    let mut jar = Jar::default();
    // No two of them knew of each other.
    for _ in 0..120 {
        jar.take(&Reply::to(start(&service)).await);
    }
    assert!(jar.line().len() > 2 * HEADERS_BYTES);
    // What others on this host keep may be no text.
    jar.0.insert(0, ("odd".to_owned(), "\u{fe}".to_owned()));
    let mut scenes = Vec::new();
    for _ in 0..NEWEST {
        let started = Reply::to(jar.add_to(start(&service))).await;
        jar.take(&started);
        scenes.push(scene_of(&started));
    }
    assert!(jar.line().len() < HEADERS_BYTES, "{} cookies", jar.0.len());
    let events = |scene: &String| jar.add_to(service.get(&format!("/events/{scene}")));
    for scene in &scenes {
        EventStream::new(events(scene).send().await.unwrap())
            .next_is("waiting")
            .await;
    }
}
