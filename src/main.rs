//! scanlogin: scan with WeChat to log in.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use scanlogin::app::App;
use scanlogin::config::{Cli, Command, Config, ConfigError, KeysCommand};
use scanlogin::doctor::{self, Ill, Wishes};
use scanlogin::hardening;
use scanlogin::healthcheck::{self, Unhealthy};
use scanlogin::http;
use scanlogin::keys;
use scanlogin::telemetry::{Export, Logs};
use scanlogin::wechat::simulator;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

// See Cargo.toml.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What could not work as configured: trying again changes nothing.
const MISCONFIGURED: u8 = 2;

/// How long the end waits for threads that are in the system's hands: who resolves a name may be there for a minute.
const THREADS_END: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let ended = Runtime::new().map_err(Into::into).and_then(|runtime| {
        let ended = runtime.block_on(run());
        runtime.shutdown_timeout(THREADS_END);
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => say(&error),
    }
}

async fn run() -> anyhow::Result<()> {
    let (cli, tables) = Cli::read(std::env::args_os())?;
    match cli.command {
        Some(Command::Keys {
            command: KeysCommand::New { alg, out },
        }) => keys::new(&alg, out.as_deref()),
        Some(Command::Openapi) => Ok(writeln!(std::io::stdout(), "{}", http::contract().to_pretty_json()?)?),
        Some(Command::Healthcheck) => healthcheck::run(cli.settings.own_ops_address()?).await,
        Some(Command::Doctor { json, wait }) => {
            let config = cli.check(&tables)?;
            hardening::keep_memory_private();
            let wait = Duration::from_secs(wait);
            doctor::run(&config, Wishes { json, wait }).await
        }
        Some(Command::Simulate(args)) => {
            let _logs = Logs::init(false, None)?;
            hardening::keep_memory_private();
            warn(&cli.warnings);
            Ok(simulator::serve::run(args, until_asked_to_end()?).await?)
        }
        None => {
            let config = cli.check(&tables)?;
            let (spans, export) = config.traces.clone().map(Export::new).transpose()?.unzip();
            let logs = Logs::init(config.log_json, spans)?;
            hardening::keep_memory_private();
            warn(&config.warnings);
            // Heard from before the first request on.
            let asked = until_asked_to_end()?;
            let read = Arc::new(|| Config::read(std::env::args_os()));
            App::start(config, read, &logs, export).await?.run(asked).await
        }
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

/// Cancelled by SIGTERM or SIGINT; a second one ends the process at once.
fn until_asked_to_end() -> anyhow::Result<CancellationToken> {
    let asked = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = asked.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it must outlive every task that a tracker waits for"
    )]
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
            if token.is_cancelled() {
                std::process::exit(1);
            }
            token.cancel();
        }
    });
    Ok(asked)
}

/// One line on standard error, whatever lies behind it; or the help that was asked for.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is what a command line talks with"
)]
fn say(error: &anyhow::Error) -> ExitCode {
    if let Some(ConfigError::Asked(text)) = error.downcast_ref() {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    eprintln!("scanlogin: {error:#}");
    if error.is::<Unhealthy>() || error.is::<Ill>() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(MISCONFIGURED)
}
