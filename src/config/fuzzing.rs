//! What holds of whatever an operator writes: see [`crate::fuzzing`].

use std::path::Path;

use clap::{CommandFactory, FromArgMatches};
use reqwest::header::HeaderValue;

use super::file::apply_text;
use super::values::{avatar_host, collector, colour, headers, network, origin, redirect_uri};
use super::words::one_line;
use super::{Cli, ConfigError};
use crate::oidc::SigningKeys;

/// The file's text. What is wrong is told in one line.
pub(crate) fn config_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // What the file names would be read, and must not be read here.
    let names_a_file = text.contains("file") || text.contains("config");
    if names_a_file || ["\\u", "\\U", "\\x"].iter().any(|escape| text.contains(escape)) {
        return;
    }
    let read = || {
        let (command, tables) = apply_text(Cli::command(), text, Path::new("scanlogin.toml"))?;
        let matches = command.try_get_matches_from(["scanlogin"]).map_err(one_line)?;
        Cli::from_arg_matches(&matches)
            .map_err(one_line)?
            .settings
            .check(&tables)
    };
    match read() {
        Ok(config) => {
            assert!(!config.mini_programs.is_empty(), "there is nothing to scan");
            assert!(config.trusted_proxies.iter().all(|network| network.prefix_len() > 0));
        }
        Err(ConfigError::Wrong(line)) => {
            assert!(
                !line.is_empty() && !line.contains(char::is_control),
                "{line:?} is not one line"
            );
        }
        Err(ConfigError::Asked(text)) => assert_eq!(text, "", "nobody asked"),
    }
}

/// A value, each time all of it.
pub(crate) fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(network) = network(text) {
        assert!(network.prefix_len() > 0, "everybody is trusted");
    }
    if let Ok(url) = origin(text) {
        assert_eq!(origin(url.as_str()), Ok(url));
    }
    if colour(text).is_ok() {
        assert!(
            text.len() == 6 && text.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{text}"
        );
    }
    if redirect_uri(text).is_ok() {
        let is_web = text.starts_with("https://") || text.starts_with("http://");
        assert!(is_web && !text.contains(['#', '\r', '\n', '\t', ' ']), "{text}");
    }
    if avatar_host(text).is_ok() {
        assert!(!text.contains(['/', ':', '@', ' ']) || text.starts_with('['), "{text}");
    }
    if let Ok(url) = collector(text) {
        assert!(url.path().ends_with("/v1/traces") && url.password().is_none(), "{text}");
    }
    if let Ok(headers) = headers(text) {
        assert!(headers.values().all(HeaderValue::is_sensitive), "{text}");
    }
    match SigningKeys::parse(text) {
        Ok(keys) => assert!(
            !keys.public_set().to_string().contains("\"d\""),
            "the private part is published"
        ),
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
}
