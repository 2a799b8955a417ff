//! The contract as an OpenAPI 3.1 document: what the handlers say of themselves, under one title.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::openapi::content::Content;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::Link;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Header, InfoBuilder, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Response,
    ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::AppState;
use super::problem::{Body, Code};

/// What all calls have in common.
const DESCRIPTION: &str = "\
Scan with WeChat to log in: a page starts a scene and shows its code, a phone scans and confirms it, the site's backend redeems the \
code that the page was given.

Every reply carries `X-Request-Id`, taken from the request when it is 1 to 64 of `[A-Za-z0-9._-]`, and `Cache-Control: no-store` unless \
it says otherwise. Every error is a problem document (RFC 9457) whose `detail` says what to do; those of `/token` and `/userinfo` are \
OAuth errors (RFC 6749 §5.2, RFC 6750 §3.1). Unknown fields of a JSON body are ignored, and replies may get further ones. \
A method that an address does not take is answered 405 `method_not_allowed` with `Allow`, an unknown address 404 `not_found`. \
500 `internal` is a defect of the service, so no call names it.";

/// The document of these routes.
pub(super) fn document(routes: OpenApiRouter<AppState>) -> OpenApi {
    let info = InfoBuilder::new()
        .title("scanlogin")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))));
    let components = ComponentsBuilder::new()
        .schema_from::<Body<'_>>()
        .security_scheme(
            "browser_secret",
            bearer("The browser_secret of POST /scenes: this is the browser that started the scene. It wins over the cookie."),
        )
        .security_scheme(
            "browser_cookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
                "scanlogin_{scene}",
                "The cookie that POST /scenes sets, named after its scene, with __Host- before it where the service is reached by https.",
            ))),
        )
        .security_scheme("confirm_token", bearer("The confirm_token of the scene's last scan."))
        .security_scheme("access_token", bearer("The access_token of POST /token."))
        .security_scheme(
            "client",
            SecurityScheme::Http(
                HttpBuilder::new()
                    .scheme(HttpAuthScheme::Basic)
                    .description(Some(
                        "The client_id and client_secret of a site, each form-encoded (RFC 6749 §2.3.1). They may stand in the form instead.",
                    ))
                    .build(),
            ),
        );
    let titled = OpenApiBuilder::new().info(info).components(Some(components.build()));
    let mut document = OpenApiRouter::with_openapi(titled.build()).merge(routes).into_openapi();
    document.webhooks = Some(webhooks());
    if let Some(components) = &mut document.components {
        components
            .schemas
            .insert("WebhookMessage".to_owned(), WebhookMessage::schema());
    }
    link_scene(&mut document);
    require_bodies(&mut document);
    document
}

/// What a site's server is told, if it wants to be: see docs/webhooks.md.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document alone: crate::login::notices writes them")]
struct WebhookMessage {
    #[schema(pattern = "^login\\.(confirmed|declined|not_me)$")]
    r#type: String,
    #[schema(format = "date-time")]
    timestamp: String,
    #[schema(inline)]
    data: WebhookData,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "as above")]
struct WebhookData {
    scene: String,
    client_id: String,
    /// Of a confirm: as in the id_token.
    #[schema(nullable = false)]
    sub: Option<String>,
    /// Of a confirm: as in the id_token.
    #[schema(nullable = false)]
    amr: Option<Vec<String>>,
    /// Of a decline.
    #[schema(nullable = false, pattern = "^(no|wrong_number)$")]
    reason: Option<String>,
}

fn webhooks() -> Paths {
    let text = |name: &str, description: &str| {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(schema))
            .build()
    };
    let body = Content::new(Some(Ref::from_schema_name("WebhookMessage")));
    let body = RequestBodyBuilder::new()
        .content("application/json", body)
        .required(Some(Required::True));
    let operation = OperationBuilder::new()
        .operation_id(Some("login_ended"))
        .summary(Some(
            "Tells a site's webhook_url how a login ended (Standard Webhooks).",
        ))
        .parameter(text("webhook-id", "The same however often this message comes."))
        .parameter(text(
            "webhook-timestamp",
            "When it was sent, in seconds since the Unix epoch.",
        ))
        .parameter(text(
            "webhook-signature",
            "`v1,` and the HMAC-SHA-256 of id, timestamp and body, in base64.",
        ))
        .request_body(Some(body.build()))
        .response("2XX", Response::new("Taken."))
        .response("410", Response::new("Not wanted, and not to come again."))
        .response("default", Response::new("It comes again, not before `Retry-After`."));
    let item = PathItem::new(HttpMethod::Post, operation);
    PathsBuilder::new().path("login", item).build()
}

fn bearer(description: &str) -> SecurityScheme {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    SecurityScheme::Http(scheme.description(Some(description)).build())
}

/// A scene that was just started is what each further call is about.
fn link_scene(document: &mut OpenApi) {
    let of_scene = |(path, item): (&String, &PathItem)| {
        let operations = [&item.get, &item.put, &item.post, &item.delete];
        let ids = operations
            .into_iter()
            .flatten()
            .filter_map(|found| found.operation_id.clone());
        path.contains("{scene}").then(|| ids.collect::<Vec<_>>())
    };
    let ids: Vec<String> = document.paths.paths.iter().filter_map(of_scene).flatten().collect();
    let start = document
        .paths
        .paths
        .get_mut("/scenes")
        .and_then(|item| item.post.as_mut());
    let started = start.and_then(|start| start.responses.responses.get_mut("201"));
    if let Some(RefOr::T(started)) = started {
        started.links = ids
            .into_iter()
            .map(|id| {
                let link = Link::builder()
                    .operation_id(id.clone())
                    .parameter("scene", "$response.body#/scene");
                (id, link.build().into())
            })
            .collect();
    }
}

/// A body of JSON may be left out where no field must be there.
fn require_bodies(document: &mut OpenApi) {
    let schemas = document.components.as_ref().map(|components| &components.schemas);
    let needs_nothing = |content: &RefOr<Content>| {
        let RefOr::T(Content {
            schema: Some(RefOr::Ref(named)),
            ..
        }) = content
        else {
            return false;
        };
        let name = named.ref_location.rsplit('/').next().unwrap_or_default();
        matches!(schemas.and_then(|schemas| schemas.get(name)), Some(RefOr::T(Schema::Object(object))) if object.required.is_empty())
    };
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.put, &mut item.post].into_iter().flatten() {
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                let may_be_left_out = body.content.values().all(needs_nothing);
                body.required = Some(if may_be_left_out {
                    Required::False
                } else {
                    Required::True
                });
            }
        }
    }
}

/// Names the problems that a call answers with; of each the status and the words are those of [`Code`].
macro_rules! problems {
    ($name:ident: $($code:ident)*) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                $crate::http::openapi::responses(&[$($crate::http::problem::Code::$code),*])
            }
        }
    };
}
pub(super) use problems;

/// One response for each status among these.
pub(super) fn responses(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status = BTreeMap::<StatusCode, Vec<Code>>::new();
    for code in codes {
        by_status.entry(code.status()).or_default().push(*code);
    }
    let response =
        |(status, codes): (StatusCode, Vec<Code>)| (status.as_str().to_owned(), problem(status, &codes).into());
    by_status.into_iter().map(response).collect()
}

fn problem(status: StatusCode, codes: &[Code]) -> Response {
    let narrowed = ObjectBuilder::new()
        .property(
            "status",
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .enum_values(Some([status.as_u16()])),
        )
        .property("code", words(codes));
    let body = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(narrowed);
    let told: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}.", code.as_str(), code.title()))
        .collect();
    let mut response = ResponseBuilder::new()
        .description(told.join(" "))
        .content("application/problem+json", Content::new(Some(body)));
    match status {
        StatusCode::UNAUTHORIZED => {
            response = response.header("WWW-Authenticate", header(Type::String, "How to prove oneself."));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            response = response.header("Retry-After", header(Type::Integer, "When to try again, in seconds."));
        }
        _ => {}
    }
    if codes.contains(&Code::RateLimited) {
        response = response
            .header(
                "RateLimit",
                header(
                    Type::String,
                    "Which limit was met, and when there is room again (draft-ietf-httpapi-ratelimit-headers).",
                ),
            )
            .header(
                "RateLimit-Policy",
                header(Type::String, "How much that limit allows in which time."),
            );
    }
    response.build()
}

fn header(kind: Type, description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(kind);
    HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(description))
        .build()
}

/// These codes, as the words that they are on the wire.
pub(super) fn words(codes: &[Code]) -> ObjectBuilder {
    let words = codes.iter().map(|code| code.as_str());
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words))
}
