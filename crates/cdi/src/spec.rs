//! A vendor's file (CDI specification, `SPEC.md`).

use serde::Deserialize;

use crate::name::{is_device, is_kind};

/// The major version of the specification that is read.
const MAJOR: &str = "0.";
/// The later ones.
const LATER: &str = "1.";

/// How many devices a file may define.
const MAX_DEFINED: usize = 16_384;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    #[serde(rename = "cdiVersion")]
    version: String,
    pub(crate) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde_json::Map<String, serde_json::Value>,
    pub(crate) devices: Vec<Device>,
    #[serde(default)]
    pub(crate) container_edits: Edits,
}

/// A device of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) container_edits: Edits,
}

/// What a container gets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes.
    pub device_nodes: Vec<DeviceNode>,
    /// Programs that are run on the node.
    pub hooks: Vec<Hook>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Resource director technology.
    pub intel_rdt: Option<serde_json::Value>,
    /// Further groups.
    #[serde(rename = "additionalGIDs", alias = "additionalGids")]
    pub additional_gids: Vec<u32>,
    /// Network devices that move into the container.
    pub net_devices: Vec<NetDevice>,
}

/// A network device of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NetDevice {
    /// What the node calls it.
    pub host_interface_name: String,
    /// What the container calls it.
    pub name: String,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DeviceNode {
    /// Where in the container.
    pub path: String,
    /// Where on the node, where that is elsewhere.
    pub host_path: String,
    /// `b`, `c`, `u` or `p`; where it is not given it is that of the node's.
    #[serde(rename = "type")]
    pub kind: String,
    /// The major number.
    pub major: Option<i64>,
    /// The minor number.
    pub minor: Option<i64>,
    /// The permission bits.
    pub file_mode: Option<u32>,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

/// A program that is run on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Hook {
    /// When: an OCI hook's name.
    pub hook_name: String,
    /// The program, absolute.
    pub path: String,
    /// Its arguments, the name first.
    pub args: Vec<String>,
    /// Its environment, nothing else.
    pub env: Vec<String>,
    /// Its time, in seconds.
    pub timeout: Option<i64>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Mount {
    /// Where on the node.
    pub host_path: String,
    /// Where in the container.
    pub container_path: String,
    /// The options.
    pub options: Vec<String>,
    /// The type of the file system, or empty for a bind mount.
    #[serde(rename = "type")]
    pub kind: String,
}

impl Spec {
    /// Reads a file's text: YAML, of which JSON is a part.
    pub(crate) fn parse(text: &str, is_json: bool) -> Result<Self, String> {
        let spec: Self = if is_json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_saphyr::from_str(text).map_err(|error: serde_saphyr::Error| {
                error.to_string().lines().next().unwrap_or_default().to_owned()
            })?
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        if !self.version.starts_with(MAJOR) && !self.version.starts_with(LATER) {
            return Err(format!("cdiVersion {:?} is not known", self.version));
        }
        if !is_kind(&self.kind) {
            return Err(format!("kind {:?} is not of the form vendor.com/class", self.kind));
        }
        if self.devices.len() > MAX_DEFINED {
            return Err(format!("it defines more than {MAX_DEFINED} devices"));
        }
        match self.devices.iter().find(|device| !is_device(&device.name)) {
            Some(device) => Err(format!("{:?} is not a device's name", device.name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What a vendor writes is read or refused with one line, and never a panic.
        #[test]
        fn no_text_panics(text in "(?s).{0,400}", is_json: bool) {
            if let Err(why) = Spec::parse(&text, is_json) {
                prop_assert!(!why.is_empty());
            }
        }

        #[test]
        fn no_change_of_a_good_file_panics(at in 0_usize..140, with in "[\\x00-\\x7f]{0,3}", is_json: bool) {
            let good = r#"{"cdiVersion":"0.6.0","kind":"v.io/card","devices":[{"name":"a","containerEdits":{"env":["A=1"],"deviceNodes":[{"path":"/dev/a"}]}}]}"#;
            let mut text = good.to_owned();
            text.replace_range(at.min(good.len())..(at + 1).min(good.len()), &with);
            let _checked = Spec::parse(&text, is_json);
        }
    }
}
