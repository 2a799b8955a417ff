//! The way of a command to whom has its key: the owner of its slot, or the one that the key has already moved to.
//!
//! While a slot moves, its owner answers `ASK` for each key that has gone; when it has moved, `MOVED` until everybody here knows.
//! Each says where to, so a command that was redirected is sent there, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use futures_util::future::join_all;

use super::fault::{Fault, Redirection};
use super::keys::slot;
use super::link::Link;
use super::nodes::{Node, Nodes};
use super::servers::Address;

/// One command about the keys of one slot.
#[derive(Debug, Clone)]
pub(super) struct Command {
    name: &'static str,
    slot: u16,
    args: Vec<Value>,
}

impl Command {
    /// `NAME key`
    pub(super) fn new(name: &'static str, key: &str) -> Self {
        Self::about(key, name).arg(key)
    }

    /// `NAME`, to where `key` is.
    pub(super) fn about(key: &str, name: &'static str) -> Self {
        Self {
            name,
            slot: slot(key),
            args: Vec::new(),
        }
    }

    /// `NAME`, to where this one goes.
    pub(super) fn beside(&self, name: &'static str) -> Self {
        Self {
            name,
            slot: self.slot,
            args: Vec::new(),
        }
    }

    pub(super) fn arg(mut self, arg: impl Into<Value>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(super) fn args(mut self, args: impl IntoIterator<Item: Into<Value>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// `SET key value PX life`
    pub(super) fn set(key: &str, value: impl Into<Value>, life_ms: i64) -> Self {
        Self::new("SET", key).arg(value).arg("PX").arg(life_ms)
    }

    /// `SET key value PX life NX GET`: what was found, if it was there already.
    pub(super) fn set_new(key: &str, value: impl Into<Value>, life_ms: i64) -> Self {
        Self::set(key, value, life_ms).arg("NX").arg("GET")
    }

    /// None of ours counts as blocking, or the library would not notice meanwhile that the server is frozen.
    fn custom(&self) -> CustomCommand {
        CustomCommand::new_static(self.name, ClusterHash::Custom(self.slot), false)
    }
}

/// Who has what as this request began, and how to send to them.
#[derive(Debug, Clone)]
pub(super) struct Route {
    nodes: Arc<Nodes>,
    /// A client of this request's own, of the server that has its keys.
    own: Option<Link>,
}

impl Route {
    pub(super) fn new(nodes: Arc<Nodes>, own: Option<Link>) -> Self {
        Self { nodes, own }
    }

    /// The server that has this key.
    pub(super) fn server_of(&self, key: &str) -> Option<Address> {
        self.nodes.owners().of(slot(key)).cloned()
    }

    /// One command's answer.
    pub(super) async fn one<R: FromValue>(&self, command: Command) -> Result<R, Fault> {
        let [answer] = self.together([command]).await?;
        Ok(answer?.convert()?)
    }

    /// The answers to commands that have nothing to do with each other, in one round trip to each server.
    pub(super) async fn each(&self, commands: Vec<Command>) -> Vec<Result<Value, Fault>> {
        let mut by_owner = BTreeMap::<_, Vec<_>>::new();
        for (place, command) in commands.iter().enumerate() {
            let owner = self.nodes.owners().of(command.slot);
            by_owner.entry(owner).or_default().push((place, command));
        }
        let asked = by_owner.into_values().map(|commands| async move {
            let (places, commands): (Vec<_>, Vec<_>) = commands.into_iter().unzip();
            let answers = match self.owner_of(commands.first().copied()) {
                Ok(node) => send(node, node.shared(), &commands).await,
                Err(fault) => vec![Err(fault); commands.len()],
            };
            // Each on its own: what has not moved yet is not known at the new place.
            let followed = answers.into_iter().zip(commands).map(|(answer, command)| async move {
                match answer {
                    Err(Fault::Redirected(to)) => {
                        let [answer] = Box::pin(self.redirected(&to, [command])).await?;
                        answer
                    }
                    answer => answer,
                }
            });
            places.into_iter().zip(join_all(followed).await)
        });
        let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().flatten().collect();
        answers.into_values().collect()
    }

    /// The answers to commands about the same slot that must be answered by the same server on the same connection.
    pub(super) async fn together<const N: usize>(
        &self,
        commands: [Command; N],
    ) -> Result<[Result<Value, Fault>; N], Fault> {
        let node = self.owner_of(commands.first())?;
        let link = self.own.as_ref().unwrap_or(node.shared());
        let answers = send(node, link, &commands.each_ref()).await;
        match answers.first() {
            // Rare, so its future is kept apart from theirs.
            Some(Err(Fault::Redirected(to))) => Box::pin(self.redirected(to, commands.each_ref())).await,
            _ => answers.try_into().map_err(|_| Fault::NoAnswer),
        }
    }

    fn owner_of(&self, command: Option<&Command>) -> Result<&Arc<Node>, Fault> {
        let command = command.ok_or(Fault::NoAnswer)?;
        self.nodes.of_slot(command.slot)
    }

    /// The same commands where their keys are now.
    async fn redirected<const N: usize>(
        &self,
        to: &Redirection,
        commands: [&Command; N],
    ) -> Result<[Result<Value, Fault>; N], Fault> {
        let unknown = || {
            Fault::Again(format!(
                "nothing is connected to {}, where the key has moved",
                to.address
            ))
        };
        let node = self.nodes.at(&to.address).ok_or_else(unknown)?;
        let waiter = match self.own {
            Some(_) => Some(node.waiter().await?),
            None => None,
        };
        let link = waiter.as_ref().map_or(node.shared(), |waiter| &waiter.link);
        let answers = if to.asking {
            let allowances = commands.map(|command| command.beside("ASKING"));
            let pairs = allowances.iter().zip(commands);
            let allowed: Vec<_> = pairs.flat_map(|(asking, command)| [asking, command]).collect();
            let answers = send(node, link, &allowed).await;
            answers.into_iter().skip(1).step_by(2).collect()
        } else {
            send(node, link, &commands).await
        };
        answers.try_into().map_err(|_| Fault::NoAnswer)
    }
}

/// As many answers as commands.
async fn send(node: &Node, link: &Link, commands: &[&Command]) -> Vec<Result<Value, Fault>> {
    let answers = pipeline(&link.client(), commands).await;
    let answers = answers.unwrap_or_else(|fault| vec![Err(fault); commands.len()]);
    answers.into_iter().map(|answer| node.heard(answer)).collect()
}

async fn pipeline(client: &WithOptions<Client>, commands: &[&Command]) -> Result<Vec<Result<Value, Fault>>, Fault> {
    // The library's futures have several kilobytes, which all that waits for them would have too, and be copied with.
    if let [command] = commands {
        let answer = Box::pin(client.custom(command.custom(), command.args.clone())).await;
        return Ok(vec![answer.map_err(Fault::from)]);
    }
    let pipeline = client.pipeline().with_options(client.options());
    for command in commands {
        let _: () = Box::pin(pipeline.custom(command.custom(), command.args.clone())).await?;
    }
    let answers = Box::pin(pipeline.try_all::<Value>()).await;
    if answers.len() == commands.len() {
        return Ok(answers.into_iter().map(|answer| answer.map_err(Fault::from)).collect());
    }
    // One that failed as a whole answers with a single error.
    Err(answers
        .into_iter()
        .find_map(Result::err)
        .map_or(Fault::NoAnswer, Fault::from))
}
