//! The scripts, and how one is run: by its hash, or whole where the server does not know the hash yet.
//!
//! All but `take` are marked `allow-oom`: they go on with what is under way and keep the replicas to one access_token, which a full
//! Redis must not stop.

use bytes::Bytes;
use fred::types::FromValue;

use super::fault::Fault;
use super::route::{Command, Route};

/// One Lua script.
#[derive(Debug)]
pub(super) struct Script {
    lua: &'static str,
    hash: String,
}

macro_rules! scripts {
    ($($name:ident),*) => {
        /// All scripts.
        #[derive(Debug)]
        pub(super) struct Scripts { $(pub(super) $name: Script,)* }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self { $($name: Script::new(include_str!(concat!("lua/", stringify!($name), ".lua"))),)* }
            }
        }
    };
}

scripts!(
    replace,
    picture,
    put_token,
    drop_token,
    acquire_lease,
    release_lease,
    take,
    give_back,
    claim_notices,
    end_notice,
    trial
);

impl Script {
    fn new(lua: &'static str) -> Self {
        let hash = fred::types::scripts::Script::from_lua(lua).sha1().to_string();
        Self { lua, hash }
    }

    /// Runs it. All keys must live in one slot.
    pub(super) async fn run<R: FromValue>(&self, route: &Route, keys: &[&str], args: &[Bytes]) -> Result<R, Fault> {
        match route.one(self.hashed(keys, args)).await {
            Err(fault) if is_unknown(&fault) => route.one(self.whole(keys, args)).await,
            answer => answer,
        }
    }

    /// By its hash.
    pub(super) fn hashed(&self, keys: &[&str], args: &[Bytes]) -> Command {
        command("EVALSHA", &self.hash, keys, args)
    }

    /// Whole, where no NOSCRIPT may come between it and what follows.
    pub(super) fn whole(&self, keys: &[&str], args: &[Bytes]) -> Command {
        command("EVAL", self.lua, keys, args)
    }
}

/// Whether the server does not know the script of this hash yet.
pub(super) fn is_unknown(fault: &Fault) -> bool {
    matches!(fault, Fault::Refused(why) if why.starts_with("NOSCRIPT"))
}

fn command(name: &'static str, script: &str, keys: &[&str], args: &[Bytes]) -> Command {
    let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
    Command::about(keys.first().copied().unwrap_or_default(), name)
        .arg(script)
        .arg(count)
        .args(keys.iter().copied())
        .args(args.iter().cloned())
}
