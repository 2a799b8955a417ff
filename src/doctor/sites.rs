//! What sites have elsewhere: where they are told, and their pictures.

use futures_util::future::join_all;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};

use super::reach::Web;
use super::report::{Check, Finding};
use crate::config::Config;
use crate::login::Client;

pub(super) async fn examine(config: &Config, web: &Web) -> Vec<Finding> {
    let of_client = |client| async move { tokio::join!(webhook(client, web), logo(client, web)) };
    let found = join_all(config.clients.iter().map(of_client)).await;
    let found = found.into_iter().flat_map(|(webhook, logo)| [webhook, logo]);
    found.flatten().collect()
}

/// What can't be taken for a message: anything that answers will do.
async fn webhook(client: &Client, web: &Web) -> Option<Finding> {
    let url = client.webhook.as_ref()?.address();
    let (check, id) = (Check::SiteWebhook, &client.client_id);
    let host = url.host_str().unwrap_or_default();
    let asked = async {
        web.connect(url).await?;
        web.ask(web.0.request(Method::OPTIONS, url.clone())).await
    };
    Some(match asked.await {
        Ok(answer) if answer.status.is_server_error() || matches!(answer.status.as_u16(), 404 | 410) => {
            Finding::warning(
                check,
                id,
                format!("{host} answers {} to OPTIONS", answer.status.as_u16()),
                "Look whether the site takes messages at its webhook_url (docs/webhooks.md).",
            )
        }
        Ok(answer) if answer.status.is_redirection() => Finding::warning(
            check,
            id,
            format!(
                "{host} answers {} to OPTIONS: it leads elsewhere, and a message follows nowhere",
                answer.status.as_u16()
            ),
            "Give as webhook_url the address itself that takes messages (docs/webhooks.md).",
        ),
        Ok(answer) => Finding::ok(
            check,
            id,
            format!("{host} is there: it answers {} to OPTIONS", answer.status.as_u16()),
        ),
        Err(unreached) => Finding::failed(check, id, &unreached, unreached.fix("webhook_url")),
    })
}

async fn logo(client: &Client, web: &Web) -> Option<Finding> {
    let (check, id) = (Check::SiteLogo, &client.client_id);
    let url: Url = client.logo_url.as_ref()?.parse().ok()?;
    let fix =
        "Let logo_url lead to a picture that everybody may fetch: browsers and phones show it beside the site's name.";
    Some(match web.get(&url).await {
        Ok(answer) => {
            let kind = answer
                .headers
                .get(CONTENT_TYPE)
                .and_then(|kind| kind.to_str().ok())
                .unwrap_or("nothing named");
            let status = answer.status.as_u16();
            if answer.status.is_success() && kind.starts_with("image/") {
                Finding::ok(check, id, format!("it is {kind} of {} bytes", answer.body.len()))
            } else {
                Finding::warning(
                    check,
                    id,
                    format!("{url} answers {status} with {kind}, and no picture"),
                    fix,
                )
            }
        }
        Err(unreached) => Finding::warning(check, id, &unreached, fix),
    })
}
