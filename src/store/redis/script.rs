//! The scripts, and how one is run: by its hash, or whole where the server does not know the hash yet.
//!
//! All are marked `allow-oom`: they go on with what is under way, which a full Redis must not stop.

use bytes::Bytes;
use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};

use super::fault::Fault;
use super::keys::slot;

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

scripts!(replace, picture, put_token, drop_token, release_lease, trial);

impl Script {
    fn new(lua: &'static str) -> Self {
        let hash = fred::types::scripts::Script::from_lua(lua).sha1().to_string();
        Self { lua, hash }
    }

    /// Runs it. All keys must live in one slot.
    pub(super) async fn run<R: FromValue>(
        &self,
        client: &WithOptions<Client>,
        keys: &[&str],
        args: &[Bytes],
    ) -> Result<R, Fault> {
        match self.send(client, "EVALSHA", &self.hash, keys, args).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                Ok(self.send(client, "EVAL", self.lua, keys, args).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Queues it whole on a pipeline, where no NOSCRIPT may come between it and what follows.
    pub(super) async fn queue<C: ClientLike>(&self, pipeline: &C, keys: &[&str], args: &[Bytes]) -> Result<(), Fault> {
        Ok(self.send(pipeline, "EVAL", self.lua, keys, args).await?)
    }

    // By `custom`, since the library's own `eval` can't be given options.
    async fn send<C: ClientLike, R: FromValue>(
        &self,
        client: &C,
        command: &'static str,
        script: &str,
        keys: &[&str],
        args: &[Bytes],
    ) -> Result<R, fred::error::Error> {
        let slot = keys
            .first()
            .map_or(ClusterHash::Random, |key| ClusterHash::Custom(slot(key)));
        let mut values = Vec::with_capacity(2 + keys.len() + args.len());
        values.push(Value::from(script));
        values.push(Value::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX)));
        values.extend(keys.iter().map(|key| Value::from(*key)));
        values.extend(args.iter().map(|arg| Value::from(arg.clone())));
        client
            .custom(CustomCommand::new_static(command, slot, false), values)
            .await
    }
}
