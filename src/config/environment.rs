//! Names in the environment: each that begins as ours do must be a setting, or be there by Kubernetes' doing.

use std::ffi::OsString;

use super::{ConfigError, no_setting, wrong};

/// What every setting begins with.
pub(super) const PREFIX: &str = "SCANLOGIN_";

/// Refuses the first of `names` that looks like a setting of `command` or of its subcommands and is none.
pub(super) fn check(command: &clap::Command, names: impl Iterator<Item = OsString>) -> Result<(), ConfigError> {
    let args = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(clap::Command::get_arguments));
    let settings: Vec<&str> = args.filter_map(|arg| arg.get_env()?.to_str()).collect();
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with(PREFIX) && !settings.contains(&name.as_str()) && !is_service_link(name))
        .collect();
    unknown.sort_unstable();
    match unknown.first() {
        Some(name) => Err(wrong(no_setting(name, &settings))),
        None => Ok(()),
    }
}

/// Whether Kubernetes names the address of a service so, in every pod of the service's namespace: a service called
/// `scanlogin` or `scanlogin-redis` puts names into our environment that begin as ours do.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_PORT_")
        || name
            .split_once("_PORT_")
            .is_some_and(|(_, port)| is_numbered_port(port))
}

/// `<n>_TCP` or of another protocol, and whatever follows.
fn is_numbered_port(port: &str) -> bool {
    let mut words = port.split('_');
    words.next().is_some_and(|number| number.parse::<u16>().is_ok())
        && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
}
