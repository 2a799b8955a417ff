//! What clap finds wrong, in our words: one line that names the setting both ways.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{Cli, ConfigError, wrong};

/// What clap says, in one line that names the flag and its environment twin. Values are repeated only where clap holds them,
/// which it does not for secrets: those take any text.
#[expect(clippy::needless_pass_by_value, reason = "called by map_err")]
pub(super) fn one_line(error: clap::Error) -> ConfigError {
    let arg = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => Some(arg.clone()),
        Some(ContextValue::Strings(args)) => Some(args.join(", ")),
        _ => None,
    };
    match (error.kind(), arg) {
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, _) => ConfigError::Asked(error.render().to_string()),
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            wrong("a subcommand is missing, such as in `scanlogin keys new`")
        }
        (ErrorKind::MissingRequiredArgument, Some(args)) => {
            wrong(format!("{args} is missing; the command with --help says what it is"))
        }
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(arg)) => wrong(of_value(&error, &arg)),
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            let problem = first.trim_start_matches("error: ");
            wrong(format!("{problem}; `scanlogin --help` lists every setting"))
        }
    }
}

fn of_value(error: &clap::Error, arg: &str) -> String {
    let flag = arg.split(' ').next().unwrap_or_default();
    let twin = twin(flag).map(|twin| format!(" ({twin})")).unwrap_or_default();
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if !value.is_empty() => format!("{value:?}"),
        _ => "the value is missing".to_owned(),
    };
    let problem = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
        (Some(problem), _) => problem.to_string(),
        (None, Some(ContextValue::Strings(values))) if !values.is_empty() => {
            format!("it must be one of {}", values.join(", "))
        }
        (None, _) => "`scanlogin --help` says what it takes".to_owned(),
    };
    format!("{flag}{twin}: {value}: {problem}")
}

/// The environment variable of a flag.
fn twin(flag: &str) -> Option<String> {
    let command = Cli::command();
    let name = flag.trim_start_matches("--");
    let args = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(clap::Command::get_arguments));
    let mut of_name = args.filter(|arg| arg.get_long() == Some(name));
    of_name
        .find_map(|arg| arg.get_env())
        .map(|env| env.to_string_lossy().into_owned())
}
