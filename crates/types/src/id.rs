//! Ids of sandboxes and containers: 64 lower-case hexadecimal digits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How many hexadecimal digits an id has (cAdvisor and the kubelet's cgroup
/// parsing know no other length).
pub const ID_LENGTH: usize = 64;

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an id of 64 hexadecimal digits")]
pub struct InvalidId {
    /// The text, cut to a length that can be logged.
    pub text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Makes a new id from the kernel's random source.
            pub fn random() -> Self {
                Self(random_hex().into())
            }

            /// Returns the 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the first 13 digits, for tables and interface names.
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let good = text.len() == ID_LENGTH
                    && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if good {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { text: text.chars().take(ID_LENGTH + 1).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// The id of a sandbox.
    SandboxId
}
id! {
    /// The id of a container.
    ContainerId
}

fn random_hex() -> String {
    let mut bytes = [0_u8; ID_LENGTH / 2];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .expect("the kernel's random source answers once it is initialised");
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_parses() {
        let id = SandboxId::random();
        assert_eq!(id.as_str().parse::<SandboxId>().as_ref(), Ok(&id));
        assert_ne!(id, SandboxId::random());
    }

    #[test]
    fn bad_ids_are_refused() {
        for bad in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65), "../../etc"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
