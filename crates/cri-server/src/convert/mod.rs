//! The door between the wire's types and Corten's own.
//!
//! Every wire message is destructured without `..`: a field that a new version of
//! the interface adds fails to compile here, instead of being ignored.

mod container;
mod sandbox;
mod security;
mod stats;
mod status;

pub(crate) use container::{container_config, image_spec};
pub(crate) use sandbox::sandbox_config;
pub(crate) use security::resources as container_resources;
pub(crate) use stats::{container_stats, pod_stats};
pub(crate) use status::{container, container_status, image, sandbox, sandbox_status};

use tonic::Status;

/// Makes an `InvalidArgument` that names the field.
pub(crate) fn invalid(field: &str, reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {reason}"))
}

/// Refuses a field that Linux has no use for or that this version cannot honour.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| invalid(field, "is required"))
}
