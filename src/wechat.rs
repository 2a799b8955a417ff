//! WeChat's server API as this service uses it: hides its hosts, its oddities, its quotas and its `access_token`.

pub mod access_token;
pub mod client;
pub mod code_pool;
pub mod errcode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod link;
pub mod picture;
mod seal;
pub mod simulator;

use client::CodeSettings;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// A Mini Program that people scan into.
#[derive(Debug, Clone)]
pub struct MiniProgram {
    /// Its AppID, such as `wx0123456789abcdef`.
    pub appid: String,
    /// By which people find it in WeChat, where that was set.
    pub name: Option<String>,
    /// Its AppSecret.
    pub secret: SecretString,
    /// How its codes look and what they open, unless a scene asks for another edition.
    pub code: CodeSettings,
    /// What an ordinary QR code holds before the scene, where WeChat opens the Mini Program with those: then we draw it ourselves.
    pub link_prefix: Option<String>,
    /// By which WeChat's console knows whose address that is.
    pub link_file: Option<LinkFile>,
}

/// A file that WeChat's console wants to find beside the links of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFile {
    /// Its name, such as `aBcDeFgHiJ.txt`.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl PartialEq for MiniProgram {
    fn eq(&self, other: &Self) -> bool {
        let secrets = (self.secret.expose_secret(), other.secret.expose_secret());
        let links = (&self.link_prefix, &self.link_file) == (&other.link_prefix, &other.link_file);
        let own = (&self.appid, &self.name, &self.code) == (&other.appid, &other.name, &other.code);
        links && own && secrets.0 == secrets.1
    }
}

/// An edition of a Mini Program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvVersion {
    /// What everybody has.
    #[default]
    Release,
    /// What testers and project members have.
    Trial,
    /// What project members have.
    Develop,
}

impl EnvVersion {
    /// The one of this word on WeChat's wire.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Release, Self::Trial, Self::Develop]
            .into_iter()
            .find(|edition| edition.as_str() == word)
    }

    /// As on WeChat's wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Trial => "trial",
            Self::Develop => "develop",
        }
    }
}
