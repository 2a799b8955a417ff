//! `scanlogin healthcheck`: asks the service of this machine whether it is ready, for a container that holds no other program.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// A replica that serves answers at once. Whoever checks has a bound of their own, and often kills at it without a word.
const DEADLINE: Duration = Duration::from_secs(2);

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// Nothing listens there, or it does not answer.
    #[error("nothing answers at {0}, which SCANLOGIN_OPS_LISTEN names")]
    Silent(String, #[source] reqwest::Error),
    /// It is about to serve, or about to end.
    #[error("{0} answers {1}: {2}")]
    Unready(String, u16, String),
}

/// Asks `/readyz` of the ops listener at `ops`, and prints what that says. Readiness it is, and not life: what waits for this container
/// wants to be served, and a replica whose Redis went away stays ready, so that none is restarted for the troubles of another.
///
/// # Errors
/// [`Unhealthy`]
pub async fn run(ops: SocketAddr) -> anyhow::Result<()> {
    let url = format!("http://{ops}/readyz");
    // An error says that one is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Nothing here is TLS, and reading certificates is most of what this would cost every few seconds.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(DEADLINE)
        .build()?;
    let silent = |error: reqwest::Error| Unhealthy::Silent(url.clone(), error.without_url());
    let reply = http.get(&url).send().await.map_err(silent)?;
    let status = reply.status();
    let said = reply.text().await.map_err(silent)?;
    if !status.is_success() {
        return Err(Unhealthy::Unready(url, status.as_u16(), said.trim().to_owned()).into());
    }
    writeln!(std::io::stdout(), "{}", said.trim())?;
    Ok(())
}
