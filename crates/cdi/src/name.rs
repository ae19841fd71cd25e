//! Names of devices: `vendor.com/class=name`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::CdiError;

/// What begins the key of an annotation that asks for devices; the rest is whoever set it.
pub const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// How many devices a container may ask for.
pub(crate) const MAX_DEVICES: usize = 1024;

/// How much of a wrong text an error shows.
const SHOWN: usize = 64;

/// The name of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceName {
    /// `vendor.com/class`.
    pub(crate) kind: String,
    /// The device.
    pub(crate) device: String,
}

impl FromStr for DeviceName {
    type Err = CdiError;

    fn from_str(text: &str) -> Result<Self, CdiError> {
        let wrong = || CdiError::Name { name: shown(text) };
        let (kind, device) = text.split_once('=').ok_or_else(wrong)?;
        if is_kind(kind) && is_device(device) {
            Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// The devices that annotations ask for: `cdi.k8s.io/KEY: NAME,NAME`, in the order of keys.
///
/// # Errors
/// A key names nobody, or a value holds what is no device's name.
pub fn from_annotations(
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<DeviceName>, CdiError> {
    let mut all = Vec::new();
    for (key, value) in annotations {
        let Some(rest) = key.strip_prefix(ANNOTATION_PREFIX) else { continue };
        if rest.is_empty() {
            return Err(CdiError::Annotation { key: shown(key) });
        }
        for name in value.split(',') {
            all.push(name.parse()?);
        }
    }
    Ok(all)
}

/// `vendor.com/class`: letters, digits and what joins them.
pub(crate) fn is_kind(text: &str) -> bool {
    text.split_once('/').is_some_and(|(vendor, class)| {
        is_word(vendor, &['_', '-', '.'])
            && vendor.starts_with(|c: char| c.is_ascii_alphabetic())
            && is_word(class, &['_', '-', '.'])
            && class.starts_with(|c: char| c.is_ascii_alphabetic())
    })
}

pub(crate) fn is_device(text: &str) -> bool {
    is_word(text, &['_', '-', '.', ':'])
}

/// Begins and ends with a letter or a digit; between them there may be what joins words.
fn is_word(text: &str, joins: &[char]) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || joins.contains(&c))
}

pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_three_parts() {
        for good in ["nvidia.com/gpu=0", "v.io/net-card=a:b.c_d", "vendor/class=all"] {
            assert_eq!(good.parse::<DeviceName>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "gpu",
            "nvidia.com/gpu",
            "nvidia.com=0",
            "/gpu=0",
            "nvidia.com/=0",
            "a/b=",
            "a/b=-x",
            "a/b=x y",
            "1a/b=x",
            "a/b=x=y",
            "a/../b=x",
            "a/b=..",
            "a/b/c=x",
            "a/b=x\n",
        ] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn annotations_name_devices_too() {
        let annotations = |pairs: &[(&str, &str)]| {
            from_annotations(
                &pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            )
        };
        let found = annotations(&[
            ("cdi.k8s.io/a", "v.io/c=1,v.io/c=2"),
            ("cdi.k8s.io/b", "w.io/c=1"),
            ("other", "v.io/c=9"),
        ]);
        let names: Vec<String> = found.expect("good").iter().map(ToString::to_string).collect();
        assert_eq!(names, ["v.io/c=1", "v.io/c=2", "w.io/c=1"]);
        assert!(annotations(&[("cdi.k8s.io/", "v.io/c=1")]).is_err());
        assert!(annotations(&[("cdi.k8s.io/a", "")]).is_err());
    }
}
