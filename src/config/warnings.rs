//! What is unsafe, and does not stop the start: told once the log runs, and never with the secret itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use rustix::process::geteuid;
use secrecy::{ExposeSecret, SecretString};

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
