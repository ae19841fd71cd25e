//! An IPv4 subnet in CIDR notation.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest prefix that leaves room for a gateway and one pod.
const LONGEST_PREFIX: u8 = 30;
/// The shortest prefix: what is wider cannot be a private network.
const SHORTEST_PREFIX: u8 = 8;

/// An IPv4 subnet whose host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

/// A text that is not a usable subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an IPv4 subnet such as 10.88.0.0/16 (prefix 8 to 30, host bits zero)")]
pub struct InvalidSubnet {
    /// The text as it was given.
    pub text: String,
}

impl Ipv4Subnet {
    /// Makes a subnet, or returns `None` where the prefix or the host bits do not fit.
    pub const fn new(base: Ipv4Addr, prefix: u8) -> Option<Self> {
        if prefix < SHORTEST_PREFIX || prefix > LONGEST_PREFIX {
            return None;
        }
        let subnet = Self { base, prefix };
        if base.to_bits() & !subnet.mask() == 0 { Some(subnet) } else { None }
    }

    /// Returns the length of the network part in bits.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns the network's own address.
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    /// Returns the gateway: the first address after the network's own.
    pub const fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + 1)
    }

    /// Returns the first address that a pod may have.
    pub const fn first_pod(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + 2)
    }

    /// Returns the last address that a pod may have (the one before the broadcast address).
    pub const fn last_pod(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.broadcast().to_bits() - 1)
    }

    /// Returns the broadcast address.
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | !self.mask())
    }

    /// Returns the network mask's bits.
    pub const fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    /// Reports whether an address lies in the subnet.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.base.to_bits()
    }
}

impl FromStr for Ipv4Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            Self::new(base.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| InvalidSubnet { text: text.chars().take(64).collect() })
    }
}

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl TryFrom<String> for Ipv4Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Ipv4Subnet> for String {
    fn from(subnet: Ipv4Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_knows_its_addresses() {
        let subnet: Ipv4Subnet = "10.88.4.0/22".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.88.4.0/22");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 4, 1));
        assert_eq!(subnet.first_pod(), Ipv4Addr::new(10, 88, 4, 2));
        assert_eq!(subnet.last_pod(), Ipv4Addr::new(10, 88, 7, 254));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 88, 7, 255));
        assert!(subnet.contains(Ipv4Addr::new(10, 88, 6, 9)));
        assert!(!subnet.contains(Ipv4Addr::new(10, 88, 8, 0)));
    }

    #[test]
    fn bad_subnets_are_refused() {
        for bad in ["", "10.88.0.0", "10.88.0.1/16", "10.0.0.0/31", "0.0.0.0/0", "fd00::/64", "x/8"]
        {
            assert!(bad.parse::<Ipv4Subnet>().is_err(), "{bad}");
        }
    }
}
