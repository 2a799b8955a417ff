//! The optional TOML file: the same settings as defaults, and the tables for several sites and Mini Programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use secrecy::SecretString;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Value;

use super::check::{TYPED_IS_REFUSED, WebhookPart, only, read_file, refuses_typed, secret_of, webhook};
use super::lines::{At, Lines};
use super::values::{avatar_host, host_of, link_prefix, origin, redirect_uri, web_address};
use super::warnings::is_secret;
use super::words::one_line;
use super::{ConfigError, no_setting, wrong};
use crate::login::entry::{EntryScenes, NumberMatching, Verdict};
use crate::login::{Client, Pairwise, Subject};
use crate::oidc::Algorithm;
use crate::webhook::Webhook;
use crate::wechat::client::CodeSettings;
use crate::wechat::{EnvVersion, LinkFile, MiniProgram};

/// What only the file can say.
#[derive(Debug, Default, Deserialize)]
pub struct Tables {
    #[serde(default)]
    client: Vec<ClientTable>,
    #[serde(default)]
    mini_program: Vec<MiniProgramTable>,
    /// Whether one of its settings is a secret.
    #[serde(skip)]
    sets_secret: bool,
    #[serde(skip)]
    lines: Lines,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, begun by [[client]]")]
struct ClientTable {
    client_id: String,
    client_secret: Option<SecretString>,
    client_secret_file: Option<PathBuf>,
    name: Option<String>,
    logo_url: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    origins: Vec<String>,
    mini_program: Option<String>,
    #[serde(default = "avatar_hosts")]
    avatar_hosts: Vec<String>,
    #[serde(default, deserialize_with = "word")]
    number_matching: NumberMatching,
    #[serde(default)]
    entry_scenes: BTreeMap<String, Verdict>,
    #[serde(default)]
    short_codes: bool,
    #[serde(default)]
    env_versions: Vec<EnvVersion>,
    #[serde(default, deserialize_with = "word")]
    subject_type: SubjectType,
    sector: Option<String>,
    #[serde(default, deserialize_with = "word")]
    id_token_signed_response_alg: Algorithm,
    webhook_url: Option<SecretString>,
    webhook_secret: Option<SecretString>,
    webhook_secret_file: Option<PathBuf>,
}

/// OpenID Connect Core §8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SubjectType {
    #[default]
    Public,
    Pairwise,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, begun by [[mini_program]]")]
struct MiniProgramTable {
    appid: String,
    name: Option<String>,
    secret: Option<SecretString>,
    secret_file: Option<PathBuf>,
    page: Option<String>,
    env_version: Option<EnvVersion>,
    link_prefix: Option<String>,
    link_file: Option<PathBuf>,
}

/// The longest file of WeChat's console, in bytes; it has some 32.
const LINK_FILE_LEN: usize = 1024;

/// Where WeChat keeps people's pictures.
pub(super) fn avatar_hosts() -> Vec<String> {
    vec!["*.qlogo.cn".to_owned()]
}

/// Reads the file, and makes its settings the defaults of `command`.
pub(super) fn apply(command: clap::Command, path: &Path) -> Result<(clap::Command, Tables), ConfigError> {
    let text = read_file(path, "SCANLOGIN_CONFIG")?;
    apply_text(command, &text, path)
}

/// The same of the file's text.
pub(super) fn apply_text(
    mut command: clap::Command,
    text: &str,
    path: &Path,
) -> Result<(clap::Command, Tables), ConfigError> {
    let lines = Lines::of(text, path);
    let in_file = |problem: &str| wrong(format!("SCANLOGIN_CONFIG: {}: {problem}", path.display()));
    let parsed = text.parse::<toml::Table>();
    let unread = |error: toml::de::Error| {
        let (span, problem) = (error.span(), plainly(error.message()));
        let setting = span.as_ref().and_then(|span| lines.setting_at(span.start));
        let problem = setting.map_or_else(|| problem.clone(), |setting| format!("{setting}: {problem}"));
        in_file(&placed(text, span, &problem))
    };
    let table = parsed.map_err(unread)?;
    // Of the text itself, which knows its lines.
    let mut tables: Tables = toml::from_str(text).map_err(unread)?;
    tables.lines = lines;
    for (name, value) in table {
        if ["client", "mini_program"].contains(&name.as_str()) {
            continue;
        }
        let settings = command.get_arguments().map(|arg| arg.get_id().as_str());
        let settings: Vec<&str> = settings.filter(|setting| *setting != "config").collect();
        if !settings.contains(&name.as_str()) {
            return Err(tables.lines.wrong_at(&name, no_setting(&name, &settings)));
        }
        let holds_secret = command
            .get_arguments()
            .any(|arg| *arg.get_id() == name && is_secret(arg));
        // A number may be written in several ways, of which but one is kept.
        if holds_secret && !value.is_str() {
            return Err(tables.lines.wrong_at(&name, format!("{name:?} must be text in quotes")));
        }
        let problem = || format!("{name:?} must be a single value or a list of strings");
        let value = scalar(&value).ok_or_else(|| tables.lines.wrong_at(&name, problem()))?;
        tables.sets_secret |= holds_secret;
        command = command.mut_arg(&name, |arg| arg.default_value(value));
        check_alone(&command, &name).map_err(|error| tables.lines.wrong_at(&name, error))?;
    }
    Ok((command, tables))
}

/// Reads one setting's value as the file has it, whatever stands in for it elsewhere: who is told of it here is told where it is.
fn check_alone(command: &clap::Command, name: &str) -> Result<(), ConfigError> {
    let arg = command.get_arguments().find(|arg| arg.get_id() == name);
    let alone = arg.map(|arg| arg.clone().env(Resettable::Reset));
    let read = clap::Command::new("scanlogin")
        .args(alone)
        .try_get_matches_from(["scanlogin"]);
    read.map(drop).map_err(one_line)
}

/// As the flag would be written.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Array(items) => Some(items.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// One of a few words: whoever wrote anything else is told which there are.
fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(value: D) -> Result<T, D::Error> {
    struct Word<T>(PhantomData<T>);

    impl<T: DeserializeOwned> Visitor<'_> for Word<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let none = StrDeserializer::<de::value::Error>::new("");
            let refused = T::deserialize(none).err().map(|error| error.to_string());
            let words = refused.as_deref().and_then(|refused| refused.split_once(", expected "));
            f.write_str(words.map_or("a word in quotes", |(_, words)| words))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::deserialize(StrDeserializer::new(text))
        }
    }

    value.deserialize_str(Word(PhantomData))
}

/// What the reader of TOML says is wrong, in words for whoever wrote it. What has the wrong type may be a secret, and is not repeated.
fn plainly(problem: &str) -> String {
    let is_of_type = problem.starts_with("invalid type: ") || problem.starts_with("invalid value: ");
    let expected = problem.rsplit_once(", expected ").map(|(_, expected)| expected);
    let is_too_large = problem.contains("64 value was too large") || expected == Some("any valid TOML value");
    match expected.filter(|_| is_of_type) {
        // Which of an untagged enum's is told.
        _ if problem == "wanted string or table" => "it must be text in quotes".to_owned(),
        _ if is_too_large => "the number is too large: what is no number must stand in quotes".to_owned(),
        Some("a string" | "string only" | "string or table" | "path string") => "it must be text in quotes".to_owned(),
        Some("a sequence") => "it must be a list, such as [\"text\"], or tables, such as [[client]]".to_owned(),
        Some("a map") => "it must be a table, such as { name = \"text\" }".to_owned(),
        Some(expected) => format!("it must be {expected}"),
        None if is_of_type => "it has the wrong type".to_owned(),
        None => problem.to_owned(),
    }
}

fn placed(text: &str, span: Option<std::ops::Range<usize>>, problem: &str) -> String {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!(
        "line {}: {}",
        before.matches('\n').count() + 1,
        problem.lines().next().unwrap_or_default()
    )
}

impl Tables {
    /// Whether the file itself holds a secret.
    pub(super) fn hold_secret(&self) -> bool {
        self.sets_secret
            || self
                .client
                .iter()
                .any(|table| table.client_secret.is_some() || table.webhook_secret.is_some())
            || self.mini_program.iter().any(|table| table.secret.is_some())
    }

    /// The files of secrets that it names, and as what.
    pub(super) fn secret_files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let clients = self
            .client
            .iter()
            .filter_map(|table| table.client_secret_file.as_deref());
        let programs = self
            .mini_program
            .iter()
            .filter_map(|table| table.secret_file.as_deref());
        let clients = clients.map(|path| ("client_secret_file", path));
        let webhooks = self
            .client
            .iter()
            .filter_map(|table| table.webhook_secret_file.as_deref());
        let webhooks = webhooks.map(|path| ("webhook_secret_file", path));
        clients
            .chain(programs.map(|path| ("secret_file", path)))
            .chain(webhooks)
    }

    /// The files that it names and that hold no secret.
    pub(super) fn plain_files(&self) -> impl Iterator<Item = &Path> {
        self.mini_program.iter().filter_map(|table| table.link_file.as_deref())
    }

    pub(super) fn mini_programs(&self, code: &CodeSettings) -> Result<Vec<MiniProgram>, ConfigError> {
        let appids = self.mini_program.iter().map(|table| &*table.appid);
        self.check_apart("mini_program", "appid", appids)?;
        let tables = self.mini_program.iter().enumerate();
        tables
            .map(|(n, table)| table.mini_program(&self.at("mini_program", n, &table.appid), code))
            .collect()
    }

    /// `pairwise` is what people are named with where a site wants names of its own.
    pub(super) fn clients(
        &self,
        programs: &[MiniProgram],
        pairwise: Option<&SecretString>,
    ) -> Result<Vec<Client>, ConfigError> {
        let ids = self.client.iter().map(|table| &*table.client_id);
        self.check_apart("client", "client_id", ids)?;
        let tables = self.client.iter().enumerate();
        tables
            .map(|(n, table)| table.client(&self.at("client", n, &table.client_id), programs, pairwise))
            .collect()
    }

    /// What is wrong with the table of this client, or with this setting of it; nothing where it has none.
    pub(super) fn wrong_of_client(&self, id: &str, setting: &str, problem: &str) -> Option<ConfigError> {
        let n = self.client.iter().position(|table| table.client_id == id)?;
        Some(self.at("client", n, id).wrong(setting, problem))
    }

    fn at(&self, kind: &str, n: usize, name: &str) -> At<'_> {
        At {
            lines: &self.lines,
            table: format!("{kind}.{n}"),
            owner: format!("{kind} {name}"),
        }
    }

    /// No two tables of a kind may be of the same name.
    fn check_apart<'a>(
        &self,
        kind: &str,
        setting: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), ConfigError> {
        let mut seen = BTreeMap::new();
        for (n, name) in names.enumerate() {
            let line = self.lines.line(&format!("{kind}.{n}.{setting}"));
            if let Some(first) = seen.insert(name, line) {
                let problem =
                    format!("two {kind}s have the {setting} {name:?}, the other in line {first}; give each its own");
                return Err(self.lines.wrong_in(line, problem));
            }
        }
        Ok(())
    }
}

impl MiniProgramTable {
    fn mini_program(&self, at: &At<'_>, code: &CodeSettings) -> Result<MiniProgram, ConfigError> {
        let file = self.secret_file.as_deref();
        let secret = secret_of(self.secret.as_ref(), file, "secret", "secret_file")
            .map_err(|error| at.wrong(set("secret", "secret_file", file), error))?;
        if let Some(prefix) = &self.link_prefix {
            let problem = |problem| format!("link_prefix: {prefix:?} {problem}; such as https://login.example/s/");
            link_prefix(prefix).map_err(|found| at.wrong("link_prefix", problem(found)))?;
        }
        let is_a_name = |name: &String| !name.trim().is_empty() && !name.contains(char::is_control);
        if !self.name.as_ref().is_none_or(is_a_name) {
            let problem = "name: it must be what people search for in WeChat, such as name = \"My Login\"";
            return Err(at.wrong("name", problem));
        }
        Ok(MiniProgram {
            name: self.name.clone(),
            link_prefix: self.link_prefix.clone(),
            link_file: self.link_file(at)?,
            appid: self.appid.clone(),
            secret: secret.ok_or_else(|| at.wrong("secret", "secret is missing: give secret or secret_file"))?,
            code: CodeSettings {
                page: self.page.clone().unwrap_or_else(|| code.page.clone()),
                ..code.of_edition(self.env_version.unwrap_or(code.env_version))
            },
        })
    }

    fn link_file(&self, at: &At<'_>) -> Result<Option<LinkFile>, ConfigError> {
        let Some(path) = &self.link_file else { return Ok(None) };
        let setting = "link_file";
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_plain = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_');
        if !name
            .strip_suffix(".txt")
            .is_some_and(|stem| !stem.is_empty() && stem.chars().all(is_plain))
        {
            let problem = format!("{setting}: {name:?} is no name that WeChat's console gives; such as aBcDeFgHiJ.txt");
            return Err(at.wrong(setting, problem));
        }
        let text = read_file(path, setting).map_err(|error| at.wrong(setting, error))?;
        if text.len() > LINK_FILE_LEN {
            let problem = format!("{setting}: {} is longer than WeChat's are", path.display());
            return Err(at.wrong(setting, problem));
        }
        Ok(Some(LinkFile {
            name: name.to_owned(),
            text: text.to_string(),
        }))
    }
}

/// Under which of two names a secret is given.
fn set(setting: &'static str, in_file: &'static str, file: Option<&Path>) -> &'static str {
    file.map_or(setting, |_| in_file)
}

impl ClientTable {
    /// What people are shown of a site, and sent to.
    fn check_addresses(&self, at: &At<'_>) -> Result<(), ConfigError> {
        let callback = "https://blog.example/callback";
        at.each("redirect_uris", &self.redirect_uris, callback, redirect_uri)?;
        at.each("avatar_hosts", &self.avatar_hosts, "*.qlogo.cn", avatar_host)?;
        if let Some(url) = &self.logo_url {
            let problem = |problem| format!("logo_url: {url:?} {problem}; such as https://blog.example/logo.png");
            web_address(url).map_err(|found| at.wrong("logo_url", problem(found)))?;
        }
        Ok(())
    }

    /// As browsers write them.
    fn origins(&self, at: &At<'_>) -> Result<Vec<String>, ConfigError> {
        let parsed = self.origins.iter().enumerate().map(|(n, text)| {
            let problem = |problem| at.wrong(&format!("origins.{n}"), format!("origins: {text:?}: {problem}"));
            Ok(origin(text).map_err(problem)?.as_str().to_owned())
        });
        parsed.collect()
    }

    /// The sector is the host of all its redirect_uris (OpenID Connect Core §8.1).
    fn subject(&self, at: &At<'_>, pairwise: Option<&SecretString>) -> Result<Subject, ConfigError> {
        if self.subject_type == SubjectType::Public {
            return match self.sector {
                None => Ok(Subject::Public),
                Some(_) => Err(at.wrong(
                    "sector",
                    "sector is only of use with subject_type = \"pairwise\"; add that or leave sector out",
                )),
            };
        }
        let secret = pairwise.ok_or_else(|| {
            at.wrong(
                "subject_type",
                "subject_type = \"pairwise\" needs SCANLOGIN_PAIRWISE_SECRET; make one with `openssl rand -base64 32` and never change it",
            )
        })?;
        let hosts: BTreeSet<String> = self.redirect_uris.iter().filter_map(|uri| host_of(uri)).collect();
        let sector = match (&self.sector, hosts.first()) {
            (Some(sector), _) if url::Host::parse(sector).is_ok_and(|host| host.to_string() == *sector) => sector,
            (Some(sector), _) => {
                let problem = format!("sector: {sector:?} is no host; such as blog.example");
                return Err(at.wrong("sector", problem));
            }
            (None, Some(host)) if hosts.len() == 1 => host,
            (None, _) => {
                let problem = format!(
                    "its redirect_uris are of {} hosts, so say in sector by which one people are named; such as sector = \"blog.example\"",
                    hosts.len()
                );
                return Err(at.wrong("redirect_uris", problem));
            }
        };
        Ok(Subject::Pairwise(Pairwise::new(secret, sector)))
    }

    fn program<'a>(&self, at: &At<'_>, programs: &'a [MiniProgram]) -> Result<&'a MiniProgram, ConfigError> {
        match &self.mini_program {
            Some(appid) => programs.iter().find(|program| program.appid == *appid).ok_or_else(|| {
                let problem = format!("mini_program {appid:?} is not configured; give it a [[mini_program]] table");
                at.wrong("mini_program", problem)
            }),
            None => only(programs).ok_or_else(|| {
                let problem = "several Mini Programs are configured: name one in mini_program, such as mini_program = ";
                let such_as = programs.first().map(|program| &*program.appid).unwrap_or_default();
                at.wrong("mini_program", format!("{problem}{such_as:?}"))
            }),
        }
    }

    fn webhook(&self, at: &At<'_>) -> Result<Option<Webhook>, ConfigError> {
        let file = self.webhook_secret_file.as_deref();
        let (setting, in_file) = ("webhook_secret", "webhook_secret_file");
        let at_secret = |error| at.wrong(set(setting, in_file, file), error);
        let secret = secret_of(self.webhook_secret.as_ref(), file, setting, in_file).map_err(at_secret)?;
        webhook(self.webhook_url.as_ref(), secret.as_ref(), "webhook_url", setting).map_err(|(of, error)| match of {
            WebhookPart::Url => at.wrong("webhook_url", error),
            WebhookPart::Secret => at_secret(error),
        })
    }

    fn client(
        &self,
        at: &At<'_>,
        programs: &[MiniProgram],
        pairwise: Option<&SecretString>,
    ) -> Result<Client, ConfigError> {
        let id = &self.client_id;
        self.check_addresses(at)?;
        let (setting, in_file, file) = (
            "client_secret",
            "client_secret_file",
            self.client_secret_file.as_deref(),
        );
        let client_secret = secret_of(self.client_secret.as_ref(), file, setting, in_file)
            .map_err(|error| at.wrong(set(setting, in_file, file), error))?;
        let entry_scenes = EntryScenes::default().with(&self.entry_scenes).map_err(|name| {
            let problem =
                format!("entry_scenes: {name:?} is neither one of WeChat's numbers, such as 1047, nor other nor typed");
            at.wrong(&format!("entry_scenes.{name}"), problem)
        })?;
        if refuses_typed(self.short_codes, &entry_scenes) {
            return Err(at.wrong("entry_scenes.typed", format!("short_codes {TYPED_IS_REFUSED}")));
        }
        Ok(Client {
            client_id: id.clone(),
            client_secret,
            name: self.name.clone().unwrap_or_else(|| id.clone()),
            logo_url: self.logo_url.clone(),
            redirect_uris: self.redirect_uris.clone(),
            origins: self.origins(at)?,
            mini_program: self.program(at, programs)?.appid.clone(),
            avatar_hosts: self.avatar_hosts.clone(),
            subject: self.subject(at, pairwise)?,
            id_token_alg: self.id_token_signed_response_alg,
            webhook: self.webhook(at)?,
            number_matching: self.number_matching,
            short_codes: self.short_codes,
            env_versions: self.env_versions.clone(),
            entry_scenes,
        })
    }
}
