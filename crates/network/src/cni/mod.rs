//! CNI by the specification: configurations, plugin programs, chains, results.
//!
//! <https://www.cni.dev/docs/spec/>, versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0.

mod cache;
mod chain;
mod config;
mod directory;
mod exec;
mod notice;
mod quantity;
mod request;
mod result;

pub(crate) use cache::ResultCache;
pub(crate) use chain::{Chain, ChainFailure, Runtime, find_programs};
pub(crate) use config::{NetworkList, Plugin, Version};
pub(crate) use directory::{Directory, Loaded};
pub use exec::PluginFailure;
pub(crate) use notice::Notice;
pub(crate) use request::{arguments, capability_arguments, minimal_arguments};
pub(crate) use result::pod_addresses;

pub(crate) use self::chain::Attachments;
