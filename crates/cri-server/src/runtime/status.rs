//! Status.

use std::collections::HashMap;

use cri_proto::v1;
use tonic::Status;

use crate::{image::progress, service::Server};

impl Server {
    /// Never waits for a pod, a plugin or a disk: the kubelet asks every five seconds.
    pub(crate) async fn on_status(
        &self,
        request: v1::StatusRequest,
    ) -> Result<v1::StatusResponse, Status> {
        let v1::StatusRequest { verbose } = request;
        let network = self.network.status().await;
        let conditions = vec![
            self.runtime_condition().await,
            v1::RuntimeCondition {
                r#type: "NetworkReady".to_owned(),
                status: network.ready,
                reason: network.reason,
                message: network.message,
            },
        ];
        let user_namespaces = self.pods.user_namespaces();
        let mut info = HashMap::new();
        if verbose {
            info.insert("config".to_owned(), self.info.config.to_string());
            info.insert("network".to_owned(), network.config.to_string());
            info.insert("events".to_owned(), events(&self.pods).to_string());
            info.insert("images".to_owned(), self.image_figures().to_string());
            if let Some(address) = &self.info.metrics {
                info.insert("metrics".to_owned(), serde_json::json!(address).to_string());
            }
            if let Err(why) = &user_namespaces {
                info.insert("userNamespaces".to_owned(), serde_json::json!(why).to_string());
            }
            info.insert("version".to_owned(), serde_json::json!(self.info.version).to_string());
        }
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            info,
            runtime_handlers: handlers(&self.pods, user_namespaces.is_ok()),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: user_namespaces.is_ok(),
                mount_options: true,
            }),
        })
    }

    /// What the image service has done, and what it does.
    fn image_figures(&self) -> serde_json::Value {
        let counted = self.images.counters().named().into_iter();
        let mut figures: serde_json::Map<String, serde_json::Value> =
            counted.map(|(name, value)| (camel_case(name), value.into())).collect();
        figures.insert("pulls".to_owned(), progress(&self.images.pulls()));
        figures.into()
    }

    /// Whether pods can be made: not while those of the last daemon are taken up, and not where
    /// the daemon cannot write down what it does.
    async fn runtime_condition(&self) -> v1::RuntimeCondition {
        let (reason, message) = match self.disks.problem().await {
            _ if !self.gate.is_open() => ("Recovering", String::new()),
            Some(problem) => ("DiskNotWritable", problem),
            None => ("", String::new()),
        };
        v1::RuntimeCondition {
            r#type: "RuntimeReady".to_owned(),
            status: reason.is_empty(),
            reason: reason.to_owned(),
            message,
        }
    }
}

/// A name as JSON has it.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (initial, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        text + &initial.to_ascii_uppercase() + rest
    })
}

/// How events are listened to.
fn events(pods: &pods::Pods) -> serde_json::Value {
    let pods::EventFigures { listeners, told, overrun } = pods.event_figures();
    serde_json::json!({ "listeners": listeners, "told": told, "overrun": overrun })
}

/// The handlers: the native one under both of its names, then those with a program.
fn handlers(pods: &pods::Pods, user_namespaces: bool) -> Vec<v1::RuntimeHandler> {
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: pods::supports_recursive_read_only(),
        user_namespaces,
    };
    let native = ["", pods::DEFAULT_HANDLER]
        .map(|name| v1::RuntimeHandler { name: name.to_owned(), features: Some(features) });
    let programs = pods.handlers().into_iter().map(|(name, features)| {
        let features = v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only,
            user_namespaces: features.user_namespaces && user_namespaces,
        };
        v1::RuntimeHandler { name, features: Some(features) }
    });
    native.into_iter().chain(programs).collect()
}
