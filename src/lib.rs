//! Scan with WeChat to log in: for any website, through a Mini Program, on any number of replicas.
//!
//! # A login, in three files
//!
//! 1. [`scene`]: what a login is. States, who may move them, and what proves it.
//! 2. [`login`]: what people and sites do with it. Start, show the code, scan, confirm, redeem.
//! 3. [`hub`]: how the browser learns of it, whichever replica it stands on.
//!
//! ```text
//!  browser ── http ── hub ◀─ News ─┐
//!               │      └─ reads ─▶ store (memory | redis)
//!               └──── login ──────▶┘
//!  phone ─── http ──────┘ └─ wechat (client, access_token, code pool | simulator)
//! ```
//!
//! # Where things are
//!
//! Imports go downward only; a test keeps it so.
//!
//! | module | hides |
//! |---|---|
//! | [`app`] | how the parts are built once, and ended in order |
//! | [`config`] | where settings come from, and what contradicts what |
//! | [`http`] | HTTP: routes, cookies, origins, problems, event streams |
//! | [`oidc`], [`keys`] | what id_tokens are made of and signed with |
//! | [`hub`] | which browser here watches which scene, and what it was told |
//! | [`login`] | the order of steps, and what each asks of the store and of WeChat |
//! | [`limits`] | who may do what how often, and how all replicas count together |
//! | [`wechat`] | WeChat's hosts, oddities and quotas; the access_token; codes made ahead; the simulator |
//! | [`audit`] | who logged in where, written down |
//! | [`webhook`] | how a site's server is sent a signed message |
//! | [`store`] | Redis: its keys, scripts and failures; and the same promises kept in memory |
//! | [`scene`], [`rate`] | the rules |
//! | [`traceparent`] | which trace a request or a login belongs to |
//! | [`web`] | what the replies of all listeners have in common; the pages' files |
//! | [`telemetry`], [`entropy`], [`hardening`] | logs and metrics; randomness; what others may see of the process |
//! | `certificate` | why a certificate is not trusted, in whose words ever |
//! | [`doctor`] | what a deployment is looked at for, and what to do about each finding |
//! | [`healthcheck`] | how a container without any other program is asked whether it serves |
//!
//! # What always holds
//!
//! - [`scene`] does no IO: no clock, no randomness of its own, nothing `async`.
//! - Only [`http`] speaks HTTP, only [`store::redis`] speaks Redis.
//! - The record is the truth, an announcement only a hint: lose every one of them, and each browser still hears of its login.
//! - A change and its announcement are one step: one Redis script.
//! - No secret is stored, only what it hashes to; the authorization code is stored nowhere at all.
//! - The hub never waits for a subscriber; the store never calls the hub.
//! - Every queue, map, body, wait and retry has a bound.

pub mod app;
pub mod audit;
mod certificate;
pub mod config;
pub mod doctor;
pub mod entropy;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hardening;
pub mod healthcheck;
pub mod http;
pub mod hub;
pub mod keys;
pub mod limits;
pub mod login;
pub mod oidc;
pub mod rate;
pub mod scene;
pub mod store;
pub mod telemetry;
pub mod traceparent;
pub mod web;
pub mod webhook;
pub mod wechat;
