//! Addresses with a prefix: subnets, and the addresses of interfaces.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The longest text that is repeated in an error.
const MAX_SHOWN: usize = 64;
/// What leaves room for a gateway and one pod.
const FEWEST_POD_BITS: u8 = 2;
/// The shortest prefixes of a pod network: what is wider cannot be a private one.
const SHORTEST_V4: u8 = 8;
const SHORTEST_V6: u8 = 16;

/// An address and the length of its network part, such as `10.88.0.1/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a usable subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a subnet such as 10.88.0.0/16 or fd00:88::/64")]
pub struct InvalidSubnet {
    /// The text as it was given.
    pub text: String,
}

impl Subnet {
    /// Makes a subnet, or returns `None` where the prefix is too long for the address.
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest { None } else { Some(Self { address, prefix }) }
    }

    /// Reads a subnet for pods: host bits zero, and neither too wide nor too narrow.
    ///
    /// # Errors
    ///
    /// The text is none.
    pub fn for_pods(text: &str) -> Result<Self, InvalidSubnet> {
        let subnet: Self = text.parse()?;
        let (shortest, longest) =
            if subnet.is_ipv6() { (SHORTEST_V6, 128) } else { (SHORTEST_V4, 32) };
        let good = subnet.address == subnet.base()
            && (shortest..=longest - FEWEST_POD_BITS).contains(&subnet.prefix);
        if good { Ok(subnet) } else { Err(invalid(text)) }
    }

    /// Returns the address as it was given.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Returns the length of the network part in bits.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Reports whether it is one of IPv6.
    pub const fn is_ipv6(self) -> bool {
        self.address.is_ipv6()
    }

    /// Returns the network's own address.
    pub fn base(self) -> IpAddr {
        self.from_bits(bits(self.address) & !self.host_mask())
    }

    /// Returns the network without the host's part.
    pub fn network(self) -> Self {
        Self { address: self.base(), ..self }
    }

    /// Returns the address that is `offset` behind the network's own.
    pub(crate) fn host(self, offset: u128) -> IpAddr {
        self.from_bits((bits(self.address) & !self.host_mask()).wrapping_add(offset))
    }

    /// Returns the last address for an interface: the broadcast address of IPv4 is none.
    pub(crate) fn last_host(self) -> IpAddr {
        let last = bits(self.address) | self.host_mask();
        self.from_bits(if self.is_ipv6() { last } else { last.saturating_sub(1) })
    }

    /// Reports whether an address lies in the subnet.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6()
            && (bits(address) ^ bits(self.address)) & !self.host_mask() == 0
    }

    /// Reports whether two subnets have an address in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.contains(other.base()) || other.contains(self.base())
    }

    /// Returns base and mask as they lie in a packet.
    pub(crate) fn base_and_mask(self) -> (Vec<u8>, Vec<u8>) {
        (octets(self.base()), octets(self.from_bits(!self.host_mask())))
    }

    fn host_mask(self) -> u128 {
        let length = if self.is_ipv6() { 128 } else { 32 };
        1u128.checked_shl(length - u32::from(self.prefix)).map_or(u128::MAX, |bit| bit - 1)
    }

    #[allow(clippy::wrong_self_convention, reason = "the family is self's")]
    fn from_bits(self, bits: u128) -> IpAddr {
        from_bits(bits, self.is_ipv6())
    }
}

/// Returns an address as a number.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the address of a number.
#[allow(clippy::cast_possible_truncation, reason = "an IPv4 address is the lowest 32 bits")]
pub(crate) fn from_bits(bits: u128, ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() }
}

/// Returns an address as it lies in a packet.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn invalid(text: &str) -> InvalidSubnet {
    InvalidSubnet { text: text.chars().take(MAX_SHOWN).collect() }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| invalid(text))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_knows_its_addresses() {
        let subnet: Subnet = "10.88.5.7/22".parse().unwrap();
        assert_eq!(subnet.network().to_string(), "10.88.4.0/22");
        assert_eq!(subnet.host(1), ip("10.88.4.1"));
        assert_eq!(subnet.last_host(), ip("10.88.7.254"));
        assert!(subnet.contains(ip("10.88.6.9")) && !subnet.contains(ip("10.88.8.0")));
        assert!(!subnet.contains(ip("::10.88.6.9")));
        let (base, mask) = subnet.base_and_mask();
        assert_eq!((base, mask), (vec![10, 88, 4, 0], vec![255, 255, 252, 0]));

        let subnet: Subnet = "fd00:1::5/64".parse().unwrap();
        assert_eq!(subnet.host(1), ip("fd00:1::1"));
        assert_eq!(subnet.last_host(), ip("fd00:1::ffff:ffff:ffff:ffff"));
        assert!(subnet.contains(ip("fd00:1::9")) && !subnet.contains(ip("fd00:2::9")));
        let all: Subnet = "::/0".parse().unwrap();
        assert!(all.contains(ip("fd00::")) && !all.contains(ip("1.2.3.4")));
    }

    #[test]
    fn subnets_overlap_both_ways() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.88.0.77/28")));
        assert!(subnet("10.88.0.77/28").overlaps(subnet("10.0.0.0/8")));
        assert!(!subnet("10.88.0.0/16").overlaps(subnet("10.89.0.0/16")));
        assert!(!subnet("fd00::/64").overlaps(subnet("0.0.0.0/0")));
    }

    #[test]
    fn bad_subnets_are_refused() {
        for bad in ["", "10.88.0.0", "10.0.0.0/33", "fd00::/129", "x/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        for bad in ["10.88.0.1/16", "10.0.0.0/31", "0.0.0.0/0", "fd00::1/64", "fd00::/127", "::/0"]
        {
            assert!(Subnet::for_pods(bad).is_err(), "{bad}");
        }
        for good in ["10.88.0.0/16", "10.0.0.0/30", "fd00::/64", "fd00::/126"] {
            assert_eq!(Subnet::for_pods(good).unwrap().to_string(), good);
        }
    }
}
