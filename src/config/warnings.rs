//! What is unsafe, and does not stop the start: told once the log runs, and never with the secret itself.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use rustix::process::geteuid;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::WeChat;
use crate::http::PublicUrl;
use crate::login::Client;
use crate::store::redis::RedisSettings;
use crate::telemetry::TraceSettings;
use crate::wechat::MiniProgram;

/// So many hex digits, drawn at random, are 128 bits: nobody finds them by trying (RFC 6749 §10.10).
const SHORTEST_SECRET: usize = 32;

/// The secrets among the arguments, this command's and its subcommand's: the system shows everybody on the machine those.
pub(super) fn of_arguments(command: &clap::Command, matches: &ArgMatches) -> Vec<String> {
    let is_given = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let given = command.get_arguments().filter(|arg| is_secret(arg)).filter(is_given);
    let exposed = given.filter(|arg| match arg.get_id().as_str() {
        "redis_url" => {
            let url = matches.get_one::<SecretString>("redis_url");
            url.is_some_and(|url| has_password(url.expose_secret()))
        }
        _ => true,
    });
    let mut warnings: Vec<String> = exposed.map(|arg| of_argument(command, arg)).collect();
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        warnings.extend(of_arguments(command, matches));
    }
    warnings
}

/// Whether an argument holds a secret: its value in the environment is kept out of the help.
pub(super) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// Before the host, or as the sentinels' in the query.
fn has_password(url: &str) -> bool {
    url.contains('@') || url.to_ascii_lowercase().contains("password")
}

fn of_argument(command: &clap::Command, arg: &Arg) -> String {
    let flag = arg.get_long().unwrap_or_default();
    let env = arg.get_env().unwrap_or_default().to_string_lossy();
    let in_file = format!("{}_file", arg.get_id());
    let has_file = command.get_arguments().any(|other| *other.get_id() == in_file);
    let or_file = if has_file {
        format!(", or its file as {env}_FILE")
    } else {
        String::new()
    };
    format!("--{flag} is on the command line, which everybody on this machine can read: give it as {env}{or_file}")
}

/// What sites prove themselves with, and whose pages may call.
pub(super) fn of_clients(clients: &[Client], simulated: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for client in clients {
        let id = &client.client_id;
        let secret = client.client_secret.as_ref().map(SecretString::expose_secret);
        if secret.is_some_and(is_short) {
            warnings.push(format!(
                "client {id}: client_secret has fewer than {SHORTEST_SECRET} characters: who tries long enough finds it, and redeems as \
                 this site. Give it another, such as `openssl rand -hex 32` makes"
            ));
        }
        // What a simulator lets in is worth nothing.
        let in_the_clear = client
            .origins
            .iter()
            .filter(|origin| !simulated && is_public_http(origin));
        warnings.extend(in_the_clear.map(|origin| {
            format!(
                "client {id}: origins: {origin} is http: whoever is on the way can write into its pages, and take over every login begun \
                 there. Serve them by https, and say so here"
            )
        }));
    }
    warnings
}

fn is_public_http(origin: &str) -> bool {
    PublicUrl::parse(origin).is_ok_and(|origin| !origin.is_https() && !origin.is_loopback())
}

/// Who is believed to be WeChat.
pub(super) fn of_wechat(wechat: &WeChat) -> Option<String> {
    let WeChat::Server {
        base, simulator: false, ..
    } = wechat
    else {
        return None;
    };
    let is_wechat =
        Url::parse(base.as_str()).is_ok_and(|url| url.domain().is_some_and(|host| host.ends_with(".weixin.qq.com")));
    (!is_wechat).then(|| {
        format!(
            "SCANLOGIN_WECHAT_API_BASE: {} is none of WeChat's own: whoever answers there says who is logged in. If it is a simulator, say so \
             with SCANLOGIN_SIMULATOR=true, and logins are marked",
            base.as_str()
        )
    })
}

/// Links that lead somewhere else than here.
pub(super) fn of_links(programs: &[MiniProgram], public_url: Option<&PublicUrl>) -> Vec<String> {
    let elsewhere = |program: &MiniProgram| {
        let prefix = program.link_prefix.as_ref()?;
        let here = public_url.map(|url| format!("{}/s/", url.as_str()));
        let own = here
            .as_deref()
            .unwrap_or("/s/ of SCANLOGIN_PUBLIC_URL, which is not set");
        let read = |address: &str| Url::parse(address).ok();
        (here.as_deref().and_then(read) != read(prefix)).then(|| {
            format!(
                "mini_program {}: link_prefix: {prefix} is not {own}: whoever scans it outside WeChat, and WeChat's console, which looks for \
                 link_file there, find nothing of this service unless what answers there passes it on",
                program.appid
            )
        })
    };
    programs.iter().filter_map(elsewhere).collect()
}

/// What Redis is shown.
pub(super) fn of_redis(settings: &RedisSettings) -> Vec<String> {
    let url = Url::parse(settings.url.expose_secret()).ok();
    // What is written there with three characters, `%` first, is one.
    let in_url = url.as_ref().and_then(Url::password);
    let is_short_in_url =
        in_url.is_some_and(|password| password.len() < SHORTEST_SECRET + 2 * password.matches('%').count());
    // The sentinels', which may stand there too.
    let in_query = url.iter().flat_map(Url::query_pairs);
    let mut of_sentinels = in_query.filter(|(name, _)| name.eq_ignore_ascii_case("sentinelPassword"));
    let is_short_in_query = of_sentinels.any(|(_, password)| is_short(&password));
    let own = settings.sentinel_password.as_ref().map(SecretString::expose_secret);
    let short = [
        ("SCANLOGIN_REDIS_URL", is_short_in_url || is_short_in_query),
        ("SCANLOGIN_REDIS_SENTINEL_PASSWORD", own.is_some_and(is_short)),
    ];
    let short = short.into_iter().filter(|(_, is_short)| *is_short);
    let warning = |(setting, _)| {
        format!(
            "{setting}: its password has fewer than {SHORTEST_SECRET} characters: who reaches Redis and tries long enough finds it, and \
             then says who is logged in. Give it another, such as `openssl rand -hex 32` makes"
        )
    };
    let mut warnings: Vec<String> = short.map(warning).collect();
    // To this reader an address is a name, as the scheme is none of browsers'.
    let is_here = |url: &Url| {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    if url.is_some_and(|url| url.password().is_none() && !is_here(&url)) {
        warnings.push(
            "SCANLOGIN_REDIS_URL has no password: whoever reaches Redis says who is logged in. Give it a user with the least rights (docs/redis.md)"
                .to_owned(),
        );
    }
    warnings
}

/// What a collector is shown.
pub(super) fn of_traces(settings: &TraceSettings) -> Option<String> {
    let TraceSettings { endpoint, headers, .. } = settings;
    let is_here = match endpoint.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    (!headers.is_empty() && endpoint.scheme() == "http" && !is_here).then(|| {
        "SCANLOGIN_OTLP_ENDPOINT is http: whoever is on the way reads what SCANLOGIN_OTLP_HEADERS proves us with. Send it by https, or to \
         a collector on this machine"
            .to_owned()
    })
}

fn is_short(secret: &str) -> bool {
    secret.chars().count() < SHORTEST_SECRET
}

/// A file of secrets that others than this process can read.
///
/// What belongs to somebody else, and is ours to read by our group alone, was given to us so on purpose.
pub(super) fn of_file(path: &Path, setting: &str) -> Option<String> {
    let file = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let is_ours = file.uid() == geteuid().as_raw();
    let who = match file.mode() {
        mode if mode & 0o004 != 0 => "everybody on this machine",
        mode if mode & 0o040 != 0 && is_ours => "its group",
        _ => return None,
    };
    let path = path.display();
    Some(format!(
        "{setting}: {path} holds secrets, and {who} can read it: its mode should be 0600"
    ))
}
