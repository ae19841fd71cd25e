//! What the small image has no program for: the host's Python in a container.

use std::path::Path;

use cri_proto::v1::{ContainerConfig, Mount};

use crate::context::Context;

/// A container that runs a script with the host's programs and libraries, which it cannot change.
pub(super) fn script(c: &Context, text: &str, arguments: &[&str]) -> ContainerConfig {
    let mut command = vec!["/usr/bin/python3", "-u", "-c", text];
    command.extend(arguments);
    let mut config = c.command(&command);
    for place in ["/usr", "/lib", "/lib64"].into_iter().filter(|place| Path::new(place).exists()) {
        config.mounts.push(Mount {
            host_path: place.to_owned(),
            container_path: place.to_owned(),
            readonly: true,
            ..Mount::default()
        });
    }
    config
}
