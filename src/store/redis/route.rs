//! The way of a command to whom has its key: the owner of its slot, or the node that the key has already moved to.
//!
//! While a slot moves, its owner answers `ASK` for each key that has gone. The library would follow that, but then takes whatever
//! answer comes next for its own, and if it may not follow it does not say where to. So every command is sent from here, alone or
//! in a pipeline, and if it was redirected, once more behind an `ASKING` to where its slot is moving.

use std::collections::{BTreeMap, HashMap};

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use futures_util::future::{self, join_all};
use tokio::sync::watch;

use super::fault::Fault;
use super::keys::slot;
use super::link::Link;
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

/// The slots on their way, and whom to. A Cluster's only.
pub(super) type Moving = HashMap<u16, Address>;

/// One client, and how to send on it.
#[derive(Debug, Clone)]
pub(super) struct Route {
    link: Link,
    moving: watch::Receiver<Moving>,
}

impl Route {
    pub(super) fn new(link: &Link, moving: &watch::Receiver<Moving>) -> Self {
        Self {
            link: link.clone(),
            moving: moving.clone(),
        }
    }

    /// The server that all goes to, where there is only one.
    pub(super) fn server(&self) -> Option<Address> {
        match self.link.servers().as_slice() {
            [server] => Some(Address::from(server)),
            _ => None,
        }
    }

    /// One command's answer.
    pub(super) async fn one<R: FromValue>(&self, command: Command) -> Result<R, Fault> {
        let answer = self.link.client().custom(command.custom(), command.args.clone()).await;
        let answer = answer.map_err(Fault::from);
        let Some(node) = self.redirected(&answer, &command) else {
            return answer;
        };
        let answer = self.asking(&node, &[&command]).await?.pop();
        Ok(answer.unwrap_or(Err(Fault::NoAnswer))?.convert()?)
    }

    /// The answers to commands that have nothing to do with each other, in one round trip to each server.
    pub(super) async fn each(&self, commands: Vec<Command>) -> Result<Vec<Result<Value, Fault>>, Fault> {
        let client = self.link.client();
        let answers = pipeline(&client, &commands.iter().collect::<Vec<_>>()).await;
        // One that is redirected fails all.
        let Err(Fault::Redirected) = answers else {
            return answers;
        };
        let (moving, settled): (Vec<_>, Vec<_>) =
            (commands.iter().enumerate()).partition(|(_, command)| self.new_place(command).is_some());
        if moving.is_empty() {
            return answers;
        }
        let rest: Vec<_> = settled.iter().map(|(_, command)| *command).collect();
        // Each on its own: what has not moved yet is not known at the new place.
        let alone = moving.iter().map(|(_, command)| self.one((*command).clone()));
        let (rest, alone) = Box::pin(future::join(pipeline(&client, &rest), join_all(alone))).await;
        let places = settled.iter().chain(&moving).map(|(place, _)| *place);
        let answers: BTreeMap<_, _> = places.zip(rest?.into_iter().chain(alone)).collect();
        Ok(answers.into_values().collect())
    }

    /// The answers to two commands that must be answered by the same server on the same connection.
    pub(super) async fn both(&self, commands: [Command; 2]) -> Result<[Result<Value, Fault>; 2], Fault> {
        let [first, second] = &commands;
        let mut answers = pipeline(&self.link.client(), &[first, second]).await;
        if let Some(node) = self.redirected(&answers, first) {
            answers = self.asking(&node, &[first, second]).await;
        }
        answers?.try_into().map_err(|_| Fault::NoAnswer)
    }

    /// Where to ask once more, if this is what the answer says and its slot is on its way.
    fn redirected<T>(&self, answer: &Result<T, Fault>, command: &Command) -> Option<Address> {
        match answer {
            Err(Fault::Redirected) => self.new_place(command),
            _ => None,
        }
    }

    fn new_place(&self, command: &Command) -> Option<Address> {
        self.moving.borrow().get(&command.slot).cloned()
    }

    /// The same commands to the node that has their keys already, each allowed there by an `ASKING`.
    async fn asking(&self, node: &Address, commands: &[&Command]) -> Result<Vec<Result<Value, Fault>>, Fault> {
        let servers = self.link.servers();
        let Some(server) = servers.iter().find(|server| Address::from(*server) == *node) else {
            let why = format!("nothing is connected to {node}, where the key has moved");
            return Err(Fault::Again(why));
        };
        let client = self.link.client_of(server);
        let allowances: Vec<_> = commands.iter().map(|command| command.beside("ASKING")).collect();
        let pairs = allowances.iter().zip(commands);
        let allowed: Vec<_> = pairs.flat_map(|(asking, command)| [asking, *command]).collect();
        // Rare, so its future is kept apart from theirs.
        let answers = Box::pin(pipeline(&client, &allowed)).await?;
        Ok(answers.into_iter().skip(1).step_by(2).collect())
    }
}

/// As many answers as commands.
async fn pipeline(client: &WithOptions<Client>, commands: &[&Command]) -> Result<Vec<Result<Value, Fault>>, Fault> {
    let pipeline = client.pipeline().with_options(client.options());
    for command in commands {
        let _: () = pipeline.custom(command.custom(), command.args.clone()).await?;
    }
    let answers = pipeline.try_all::<Value>().await;
    if answers.len() == commands.len() {
        return Ok(answers.into_iter().map(|answer| answer.map_err(Fault::from)).collect());
    }
    // One that failed as a whole answers with a single error.
    Err(answers
        .into_iter()
        .find_map(Result::err)
        .map_or(Fault::NoAnswer, Fault::from))
}
