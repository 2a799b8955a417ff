//! `scanlogin doctor`: looks a deployment over as a colleague would, and says of each thing what it found and what to do about it.
//!
//! It takes the service's settings, starts nothing and changes nothing. At Redis it tries every right in a form that writes nothing; of
//! WeChat it asks what the service asks, with the `access_token` that is kept; at the public URL it starts one scene, and cancels it.

mod public;
mod reach;
mod redis;
mod report;
mod settings;
mod sites;
mod wechat;

use std::time::Duration;

use anyhow::Context;

use self::reach::Web;
pub use self::report::Check;
use self::report::Report;
use crate::config::Config;

/// How the report is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// As JSON, for other programs.
    pub json: bool,
    /// For how long a heartbeat is waited for.
    pub wait: Duration,
}

/// Something is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0} of what was looked at must be put right")]
pub struct Ill(usize);

/// Looks at everything, and prints what it found. Each step has a deadline: all together take a minute at most.
///
/// # Errors
/// [`Ill`]
pub async fn run(config: &Config, wishes: Wishes) -> anyhow::Result<()> {
    let report = Box::pin(examine(config, wishes.wait)).await?;
    if wishes.json {
        report.print_json()?;
    } else {
        report.print()?;
    }
    match report.failed() {
        0 => Ok(()),
        failed => Err(Ill(failed).into()),
    }
}

async fn examine(config: &Config, wait: Duration) -> anyhow::Result<Report> {
    let web = Web::new().context("TLS can't be set up")?;
    let mut report = Report::default();
    report.extend(settings::examine(config));
    // What it keeps of WeChat is asked with next.
    let (of_redis, tokens) = redis::examine(config).await?;
    report.extend(of_redis);
    let (of_wechat, of_public_url, of_sites) = tokio::join!(
        Box::pin(wechat::examine(config, &tokens, &web)),
        Box::pin(public::examine(config, &web, wait)),
        Box::pin(sites::examine(config, &web)),
    );
    report.extend(of_wechat?);
    report.extend(of_public_url);
    report.extend(of_sites);
    Ok(report)
}
