//! The sites that may ask for a login, each with the Mini Program that asks its people.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ring::digest;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::entry::{EntryScenes, NumberMatching};
use super::{Pairwise, Program, Subject};
use crate::oidc::{Algorithm, SigningKeys};
use crate::webhook::Webhook;
use crate::wechat::EnvVersion;

/// One site (an OAuth client).
#[derive(Debug, Clone)]
pub struct Client {
    /// Its name towards us.
    pub client_id: String,
    /// What its backend proves itself with; without one it is a public client and must use PKCE.
    pub client_secret: Option<SecretString>,
    /// Its name towards people.
    pub name: String,
    /// Its picture towards people.
    pub logo_url: Option<String>,
    /// Where `/authorize` may send people back to, exactly.
    pub redirect_uris: Vec<String>,
    /// Which other origins may call us from a page.
    pub origins: Vec<String>,
    /// The AppID of the Mini Program that asks its people.
    pub mini_program: String,
    /// What becomes of a phone by how it came to the code.
    pub entry_scenes: EntryScenes,
    /// Whether the browser shows a number that the person picks on the phone.
    pub number_matching: NumberMatching,
    /// Whether its browsers may show a short code to type in place of a scan.
    pub short_codes: bool,
    /// Which editions of the Mini Program its page may ask for, beside the usual one.
    pub env_versions: Vec<EnvVersion>,
    /// Hosts that a phone may name an avatar on; `*.` stands for any subdomain.
    pub avatar_hosts: Vec<String>,
    /// By what it knows people.
    pub subject: Subject,
    /// What its id_tokens are signed with.
    pub id_token_alg: Algorithm,
    /// Where its server is told how logins end.
    pub webhook: Option<Webhook>,
}

impl Client {
    /// Whether it has no secret.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.client_secret.is_none()
    }

    /// Whether `secret` is its secret; compares in constant time. A public client has none to present.
    #[must_use]
    pub fn accepts(&self, secret: &str) -> bool {
        // Of hashes, which are equally long.
        let hash = |secret: &str| digest::digest(&digest::SHA256, secret.as_bytes());
        let fits = |own: &SecretString| hash(own.expose_secret()).as_ref().ct_eq(hash(secret).as_ref()).into();
        self.client_secret.as_ref().is_some_and(fits)
    }

    /// The host by which people know the site: that of its first redirect_uri, else of its first origin.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        let address = self.redirect_uris.first().or(self.origins.first())?;
        url::Url::parse(address).ok()?.host_str().map(ToOwned::to_owned)
    }

    /// The address of an avatar that a phone names, if it may: https, on one of the hosts.
    #[must_use]
    pub fn avatar_at(&self, address: &str) -> Option<String> {
        picture_at(address, &self.avatar_hosts)
    }
}

/// The address as browsers write it: nothing in it ends the quotes or the line that a site puts it in.
pub(super) fn picture_at(address: &str, hosts: &[String]) -> Option<String> {
    let address = url::Url::parse(address).ok()?;
    let host = address.host_str()?;
    // The standard of URLs lets quotes stand in one; the DNS knows no such name.
    let is_plain =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let is_name = host.split('.').all(is_plain);
    let is_bare = address.username().is_empty() && address.password().is_none();
    let is_allowed = hosts.iter().any(|allowed| match allowed.strip_prefix("*.") {
        Some(domain) => host
            .strip_suffix(domain)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => host == allowed,
    });
    // Which the standard of URLs leaves as they are here and there.
    let quoted = [('\'', "%27"), ('\\', "%5C"), ('`', "%60")];
    let written = |text: String, (mark, code): (char, &str)| text.replace(mark, code);
    (address.scheme() == "https" && is_bare && is_name && is_allowed)
        .then(|| quoted.into_iter().fold(address.into(), written))
}

/// A site, ready to log people in.
#[derive(Debug)]
pub struct Site {
    /// What was set of it.
    pub client: Client,
    /// Asks its people.
    pub program: Arc<Program>,
    /// Sign its id_tokens: those of the same settings, so that a login that is under way while these change finds its algorithm's.
    pub keys: SigningKeys,
}

/// All sites, by their `client_id`. Replaced as a whole when the settings change.
#[derive(Debug)]
pub struct Sites {
    by_id: BTreeMap<String, Arc<Site>>,
    programs: HashMap<String, Arc<Program>>,
    keys: SigningKeys,
    is_demo: bool,
}

/// A client names a Mini Program that is not there.
#[derive(Debug, thiserror::Error)]
#[error("client {client_id}: there is no Mini Program {mini_program}")]
pub struct NoSuchProgram {
    client_id: String,
    mini_program: String,
}

impl Sites {
    /// These sites, with their Mini Programs by AppID and what signs for them; of two with one id the later stays. `is_demo` where
    /// nobody set up a site, so that the built-in one is the only one.
    ///
    /// # Errors
    /// [`NoSuchProgram`]
    pub fn new(
        clients: impl IntoIterator<Item = Client>,
        programs: HashMap<String, Arc<Program>>,
        keys: SigningKeys,
        is_demo: bool,
    ) -> Result<Self, NoSuchProgram> {
        let site = |client: Client| {
            let program = programs.get(&client.mini_program).ok_or_else(|| NoSuchProgram {
                client_id: client.client_id.clone(),
                mini_program: client.mini_program.clone(),
            })?;
            let program = Arc::clone(program);
            let keys = keys.clone();
            Ok((client.client_id.clone(), Arc::new(Site { client, program, keys })))
        };
        let by_id = clients.into_iter().map(site).collect::<Result<_, _>>()?;
        Ok(Self {
            by_id,
            programs,
            keys,
            is_demo,
        })
    }

    /// The site of this id.
    #[must_use]
    pub fn get(&self, client_id: &str) -> Option<Arc<Site>> {
        self.by_id.get(client_id).cloned()
    }

    /// The only site, if there is but one.
    #[must_use]
    pub fn only(&self) -> Option<Arc<Site>> {
        let mut all = self.by_id.values();
        all.next().filter(|_| all.next().is_none()).cloned()
    }

    /// The built-in demo site, if nobody set up another.
    #[must_use]
    pub fn demo(&self) -> Option<Arc<Site>> {
        self.only().filter(|_| self.is_demo)
    }

    /// What makes the names of people for some site that has names of its own. All are made with one secret.
    #[must_use]
    pub fn pairwise(&self) -> Option<&Pairwise> {
        self.by_id.values().find_map(|site| match &site.client.subject {
            Subject::Pairwise(pairwise) => Some(pairwise),
            Subject::Public => None,
        })
    }

    /// What was set of each.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.by_id.values().map(|site| &site.client)
    }

    /// Their names.
    pub fn client_ids(&self) -> impl Iterator<Item = &str> {
        self.by_id.keys().map(String::as_str)
    }

    /// What signs id_tokens, and is published.
    #[must_use]
    pub fn keys(&self) -> &SigningKeys {
        &self.keys
    }

    /// Whether any site lists this origin.
    #[must_use]
    pub fn list_origin(&self, origin: &str) -> bool {
        self.by_id
            .values()
            .any(|site| site.client.origins.iter().any(|listed| listed == origin))
    }

    /// Whether any of them wants to be told how logins end.
    #[must_use]
    pub fn have_webhooks(&self) -> bool {
        self.by_id.values().any(|site| site.client.webhook.is_some())
    }

    /// The Mini Programs, by AppID, those without a site included.
    #[must_use]
    pub fn programs(&self) -> &HashMap<String, Arc<Program>> {
        &self.programs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blog() -> Client {
        Client {
            client_id: "blog".to_owned(),
            client_secret: Some("s3cret".into()),
            name: "My Blog".to_owned(),
            logo_url: None,
            redirect_uris: vec!["https://blog.example/callback".to_owned()],
            origins: vec!["https://www.blog.example".to_owned()],
            mini_program: "wx0".to_owned(),
            entry_scenes: EntryScenes::default(),
            number_matching: NumberMatching::Off,
            short_codes: false,
            env_versions: Vec::new(),
            avatar_hosts: vec!["*.qlogo.cn".to_owned(), "blog.example".to_owned()],
            subject: Subject::Public,
            id_token_alg: Algorithm::Es256,
            webhook: None,
        }
    }

    #[test]
    fn an_avatar_may_only_be_at_an_allowed_host_by_https() {
        let allowed = [
            "https://thirdwx.qlogo.cn/a/132",
            "https://a.b.qlogo.cn/x",
            "https://blog.example/me.png",
        ];
        let refused = [
            "http://thirdwx.qlogo.cn/a",
            "https://qlogo.cn/a",
            "https://evilqlogo.cn/a",
            "https://.qlogo.cn/a",
            "https://.a.qlogo.cn/a",
            "https://a\"b.qlogo.cn/a",
            "https://a'b.qlogo.cn/a",
            "https://a`b.qlogo.cn/a",
            "https://qlogo.cn.evil.example/a",
            "https://x@thirdwx.qlogo.cn/a",
            "https://www.blog.example/me.png",
            "//thirdwx.qlogo.cn/a",
            "javascript:alert(1)",
            "",
        ];
        for address in allowed {
            assert_eq!(blog().avatar_at(address).as_deref(), Some(address));
        }
        for address in refused {
            assert_eq!(blog().avatar_at(address), None, "{address}");
        }
        let hostile = "https://a.qlogo.cn/\"><script>'\n?x='<b>`\\#\"\\";
        let shown = blog().avatar_at(hostile).unwrap();
        assert_eq!(
            shown,
            "https://a.qlogo.cn/%22%3E%3Cscript%3E%27?x=%27%3Cb%3E%60%5C#%22%5C"
        );
    }

    #[test]
    fn a_public_client_accepts_no_secret_at_all() {
        assert!(blog().accepts("s3cret"));
        assert!(!blog().accepts("s3cre"));
        let public = Client {
            client_secret: None,
            ..blog()
        };
        assert!(!public.accepts(""));
    }

    #[test]
    fn people_know_a_site_by_where_they_come_back_to() {
        assert_eq!(blog().domain().as_deref(), Some("blog.example"));
        let only_origins = Client {
            redirect_uris: Vec::new(),
            ..blog()
        };
        assert_eq!(only_origins.domain().as_deref(), Some("www.blog.example"));
    }
}
