//! The calls as WeChat answers them: what it checks, in which order, and its oddities.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::Method;
use axum::response::Response;
use axum::routing::any;
use axum::{Router, extract::DefaultBodyLimit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use serde_json::json;
use tokio::time::Instant;

use super::Simulator;
use super::calls::{Call, CallRecord, token_tail};
use super::errcode::Errcode;
use super::picture::{self, Look};
use super::reply::Reply;
use super::tokens::Given;
use crate::entropy::os_rng;

const BODY_MAX: usize = 64 * 1024;
const SCENE_MAX: usize = 32;
const WIDTHS: std::ops::RangeInclusive<i64> = 280..=1280;
/// What lines get where `auto_color` asks for a colour that suits.
const AUTO_COLOR: [u8; 3] = [7, 84, 50];

type Params = Query<HashMap<String, String>>;

pub(super) fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/cgi-bin/token", any(token))
        .route("/cgi-bin/stable_token", any(stable_token))
        .route("/wxa/getwxacodeunlimit", any(getwxacodeunlimit))
        .route("/sns/jscode2session", any(jscode2session))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(simulator)
}

async fn token(State(simulator): State<Simulator>, method: Method, Query(query): Params) -> Response {
    let given = || {
        require(&method, &Method::GET)?;
        grant_type(param(&query, "grant_type"), "client_credential")?;
        let appid = simulator.credentials(param(&query, "appid"), param(&query, "secret"))?;
        simulator.tokens().renew(appid, Instant::now(), &mut os_rng())
    };
    simulator
        .answer(Call::Token, None, async || reply_given(Call::Token, given()))
        .await
}

#[derive(Deserialize)]
struct StableTokenRequest {
    grant_type: Option<String>,
    appid: Option<String>,
    secret: Option<String>,
    #[serde(default)]
    force_refresh: bool,
}

async fn stable_token(State(simulator): State<Simulator>, method: Method, body: Bytes) -> Response {
    let given = || {
        require(&method, &Method::POST)?;
        let asked: StableTokenRequest = serde_json::from_slice(&body).map_err(|_| Errcode::DATA_FORMAT)?;
        grant_type(asked.grant_type.as_deref(), "client_credential")?;
        let appid = simulator.credentials(asked.appid.as_deref(), asked.secret.as_deref())?;
        simulator
            .tokens()
            .stable(appid, asked.force_refresh, Instant::now(), &mut os_rng())
    };
    simulator
        .answer(Call::StableToken, None, async || {
            reply_given(Call::StableToken, given())
        })
        .await
}

fn reply_given(call: Call, given: Result<Given, Errcode>) -> Reply {
    match given {
        Ok(Given {
            access_token,
            expires_in,
        }) => Reply::token(call, &access_token, expires_in),
        Err(errcode) => Reply::error(call, errcode),
    }
}

/// WeChat leaves `errcode` and `errmsg` out at times.
#[derive(Serialize)]
struct Exchanged {
    session_key: String,
    openid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unionid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errcode: Option<Errcode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errmsg: Option<&'static str>,
}

async fn jscode2session(State(simulator): State<Simulator>, method: Method, Query(query): Params) -> Response {
    let exchange = || {
        require(&method, &Method::GET)?;
        let (appid, secret) = (param(&query, "appid"), param(&query, "secret"));
        let appid = simulator.credentials(appid, secret)?;
        let code = param(&query, "js_code").ok_or(Errcode::CODE_MISSING)?;
        grant_type(param(&query, "grant_type"), "authorization_code")?;
        simulator.logins().exchange(code, appid, Instant::now())
    };
    let work = async || match exchange() {
        Ok(person) => {
            let with_errcode = simulator.faults().toss();
            let exchanged = Exchanged {
                session_key: STANDARD.encode(os_rng().random::<[u8; 16]>()),
                openid: person.openid,
                unionid: person.unionid,
                errcode: with_errcode.then_some(Errcode::OK),
                errmsg: with_errcode.then_some("ok"),
            };
            Reply::success(Call::Jscode2session, json!(exchanged).to_string())
        }
        Err(errcode) => Reply::error(Call::Jscode2session, errcode),
    };
    simulator.answer(Call::Jscode2session, None, work).await
}

/// An unknown key is as wrong as a wrong type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeRequest {
    #[serde(default)]
    scene: String,
    page: Option<String>,
    #[serde(rename = "check_path")]
    _check_path: Option<bool>,
    env_version: Option<String>,
    width: Option<i64>,
    #[serde(default)]
    auto_color: bool,
    line_color: Option<LineColor>,
    #[serde(default)]
    is_hyaline: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LineColor {
    r: u8,
    g: u8,
    b: u8,
}

async fn getwxacodeunlimit(
    State(simulator): State<Simulator>,
    method: Method,
    Query(query): Params,
    body: Bytes,
) -> Response {
    let used = param(&query, "access_token");
    let checked = || {
        require(&method, &Method::POST)?;
        let access_token = used.ok_or(Errcode::ACCESS_TOKEN_MISSING)?;
        simulator.tokens().take_picture(access_token, Instant::now())?;
        let asked = serde_json::from_slice::<CodeRequest>(&body).map_err(|error| match error.classify() {
            Category::Data => Errcode::DATA_FORMAT,
            Category::Io | Category::Syntax | Category::Eof => Errcode::INVALID_SCENE_LENGTH,
        })?;
        let look = asked.look()?;
        Ok((simulator.phone_url(&asked.scene), look))
    };
    let work = async || {
        let drawn = match checked() {
            Ok((text, look)) => draw(text, look).await,
            Err(errcode) => Err(errcode),
        };
        match drawn {
            Ok(picture) => Reply::success(Call::Getwxacodeunlimit, picture),
            Err(errcode) => Reply::error(Call::Getwxacodeunlimit, errcode),
        }
    };
    simulator.answer(Call::Getwxacodeunlimit, used, work).await
}

impl CodeRequest {
    fn look(&self) -> Result<Look, Errcode> {
        let page = self.page.as_deref().unwrap_or_default();
        let usual = Look::default();
        let width = self.width.unwrap_or(usual.width.into());
        if [page, &self.scene].iter().any(|text| text.contains("scancode_time")) {
            return Err(Errcode::SCANCODE_TIME);
        }
        if self.scene.is_empty() || self.scene.chars().count() > SCENE_MAX {
            return Err(Errcode::INVALID_SCENE_LENGTH);
        }
        if !self
            .scene
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "!#$&'()*+,/:;=?@-._~".contains(c))
        {
            return Err(Errcode::INVALID_SCENE);
        }
        // Every other page counts as released: the simulator knows no Mini Program.
        if page.starts_with('/') || page.strip_suffix(".html").is_some() || page.contains(['?', '#']) {
            return Err(Errcode::INVALID_PAGE);
        }
        if !matches!(
            self.env_version.as_deref(),
            None | Some("release" | "trial" | "develop")
        ) {
            return Err(Errcode::INVALID_ENV_VERSION);
        }
        // WeChat names no errcode for this; its sister call getwxacode has this one.
        if !WIDTHS.contains(&width) {
            return Err(Errcode::INVALID_WIDTH);
        }
        Ok(Look {
            width: u16::try_from(width).map_err(|_| Errcode::INVALID_WIDTH)?,
            line_color: match &self.line_color {
                _ if self.auto_color => AUTO_COLOR,
                Some(LineColor { r, g, b }) => [*r, *g, *b],
                None => usual.line_color,
            },
            is_hyaline: self.is_hyaline,
        })
    }
}

/// Draws off the runtime's own threads: a wide picture takes them too long.
async fn draw(text: String, look: Look) -> Result<Vec<u8>, Errcode> {
    match tokio::task::spawn_blocking(move || picture::draw(&text, look)).await {
        Ok(Ok(picture)) => Ok(picture),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the simulator could not draw a code");
            Err(Errcode::SYSTEM_ERROR)
        }
        Err(error) => {
            tracing::error!(%error, "the simulator's drawing ended");
            Err(Errcode::SYSTEM_ERROR)
        }
    }
}

impl Simulator {
    /// Does the call, or what a fault has instead, and keeps a record of it before the answer goes out.
    ///
    /// `token` is the access_token that the call used.
    async fn answer(&self, call: Call, token: Option<&str>, work: impl AsyncFnOnce() -> Reply) -> Response {
        let at = jiff::Timestamp::now().to_string();
        let fault = self.faults().next(call).unwrap_or_default();
        let reply = match &fault.instead {
            Some(instead) => Reply::instead(call, instead),
            None => work().await,
        };
        self.call_log().push(CallRecord {
            call,
            at,
            errcode: reply.errcode,
            status: reply.status.as_u16(),
            token_tail: reply.token_tail.clone().or_else(|| token.map(token_tail)),
        });
        reply.send(&fault).await
    }

    /// The AppID, when it and the secret are ones that this simulator accepts.
    fn credentials<'a>(&self, appid: Option<&'a str>, secret: Option<&str>) -> Result<&'a str, Errcode> {
        let appid = appid.ok_or(Errcode::APPID_MISSING)?;
        let secret = secret.ok_or(Errcode::APPSECRET_MISSING)?;
        if !self.accepts_appid(appid) {
            return Err(Errcode::INVALID_APPID);
        }
        if !self.accepts_secret(secret) {
            return Err(Errcode::INVALID_APPSECRET);
        }
        self.remember(appid);
        Ok(appid)
    }
}

/// A parameter that is there and not empty.
fn param<'a>(query: &'a HashMap<String, String>, name: &str) -> Option<&'a str> {
    query.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn require(method: &Method, required: &Method) -> Result<(), Errcode> {
    if method == required {
        Ok(())
    } else if required == Method::POST {
        Err(Errcode::POST_REQUIRED)
    } else {
        Err(Errcode::GET_REQUIRED)
    }
}

fn grant_type(given: Option<&str>, expected: &str) -> Result<(), Errcode> {
    if given == Some(expected) {
        Ok(())
    } else {
        Err(Errcode::INVALID_GRANT_TYPE)
    }
}
