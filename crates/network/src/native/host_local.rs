//! Addresses as the host-local plugin gives them, on disk in its format and under its
//! lock, so that both can serve one network: a file per address that holds the
//! container's id and the interface, `last_reserved_ip.<set>` for going round, `lock`.
//!
//! A lease is there before its address is used and goes after the address is gone.
//! Giving back needs no free disk block.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use types::SandboxId;

use super::plan::{Ipam, Range};
use crate::{
    INTERFACE, NetworkError, Subnet,
    subnet::{bits, from_bits},
};

/// What host-local writes between the id and the interface.
const LINE_BREAK: &str = "\r\n";
/// The longest lease that is read: an id and an interface's name.
const MAX_LEASE_BYTES: u64 = 256;

/// The leases of one network.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    dir: PathBuf,
}

/// An address that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// The address with its subnet's prefix.
    pub(crate) address: Subnet,
    /// The subnet's router.
    pub(crate) gateway: IpAddr,
}

impl Leases {
    /// Names the directory; it is made with the first lease.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Takes the next free address of each set, or the one that is asked for.
    pub(crate) fn allocate(
        &self,
        ipam: &Ipam,
        id: &SandboxId,
        asked: &[IpAddr],
    ) -> Result<Vec<Given>, NetworkError> {
        fs::create_dir_all(&self.dir).map_err(|source| self.failed("make leases of", source))?;
        let _lock = self.lock()?;
        let mut open: Vec<IpAddr> = asked.to_vec();
        let mut given = Vec::new();
        for (set, ranges) in ipam.sets.iter().enumerate() {
            let within = |ip: &IpAddr| ranges.iter().any(|range| range.subnet.contains(*ip));
            let wish = open.iter().position(within).map(|position| open.remove(position));
            given.push(match wish {
                Some(address) => self.take_asked(set, ranges, id, address)?,
                None => self.take_next(set, ranges, id)?,
            });
        }
        match open.first() {
            None => Ok(given),
            Some(address) => Err(self.not_free(*address, "it is in no range")),
        }
    }

    /// Gives back all addresses of a sandbox. `hints` are looked at first and spare the
    /// search where all of them are right.
    pub(crate) fn release(&self, id: &SandboxId, hints: &[IpAddr]) -> Result<(), NetworkError> {
        let owned = |address: &IpAddr| self.owner(*address).as_deref() == Some(id.as_str());
        if !hints.is_empty() && hints.iter().all(owned) {
            return hints.iter().try_for_each(|address| self.remove(*address));
        }
        for address in self.addresses()? {
            if owned(&address) {
                self.remove(address)?;
            }
        }
        Ok(())
    }

    /// Gives back all addresses whose owner is not among the known ones.
    pub(crate) fn retain(&self, known: &BTreeSet<&str>) -> Result<(), NetworkError> {
        for address in self.addresses()? {
            let owner = self.owner(address).unwrap_or_default();
            if !known.contains(owner.as_str()) {
                self.remove(address)?;
            }
        }
        Ok(())
    }

    /// Reports whether no address is taken.
    pub(crate) fn is_empty(&self) -> Result<bool, NetworkError> {
        Ok(self.addresses()?.is_empty())
    }

    fn take_asked(
        &self,
        set: usize,
        ranges: &[Range],
        id: &SandboxId,
        address: IpAddr,
    ) -> Result<Given, NetworkError> {
        let range = ranges.iter().find(|range| range.holds(address));
        let Some(range) = range else { return Err(self.not_free(address, "it is in no range")) };
        if address == range.gateway {
            return Err(self.not_free(address, "it is the gateway's"));
        }
        if !self.take(id, address)? {
            return Err(self.not_free(address, "another pod has it"));
        }
        self.remember(set, address)?;
        range.given(address).ok_or_else(|| self.not_free(address, "it is in no range"))
    }

    fn take_next(
        &self,
        set: usize,
        ranges: &[Range],
        id: &SandboxId,
    ) -> Result<Given, NetworkError> {
        let last =
            fs::read_to_string(self.last_path(set)).ok().and_then(|text| text.trim().parse().ok());
        for (range, address) in candidates(ranges, last) {
            if address == range.gateway || !self.take(id, address)? {
                continue;
            }
            self.remember(set, address)?;
            if let Some(given) = range.given(address) {
                return Ok(given);
            }
        }
        let subnet = ranges[0].subnet;
        Err(NetworkError::NoFreeAddress { subnet })
    }

    fn last_path(&self, set: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{set}"))
    }

    /// Notes the address that was given last.
    fn remember(&self, set: usize, address: IpAddr) -> Result<(), NetworkError> {
        let path = self.last_path(set);
        overwrite(&path, address.to_string().as_bytes()).map_err(|source| {
            // Without it the same address would be tried first for ever: harmless, but the
            // disk is full, and the pod's record will fail next.
            let _ = self.remove(address);
            NetworkError::Lease { action: "remember", path, source }
        })
    }

    /// Writes a lease; `false` where there is one already.
    fn take(&self, id: &SandboxId, address: IpAddr) -> Result<bool, NetworkError> {
        let path = self.dir.join(address.to_string());
        let written = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            other => other.and_then(|mut file| {
                file.write_all(format!("{id}{LINE_BREAK}{INTERFACE}").as_bytes())
                    .inspect_err(|_| drop(fs::remove_file(&path)))
            }),
        };
        written.map(|()| true).map_err(|source| NetworkError::Lease {
            action: "take",
            path,
            source,
        })
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, NetworkError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.failed("list", source)),
        };
        // Bounded by the subnet: other names are no leases.
        entries
            .map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok())))
            .filter_map(Result::transpose)
            .collect::<io::Result<_>>()
            .map_err(|source| self.failed("list", source))
    }

    /// Reads whose a lease is; `None` where it cannot be read.
    fn owner(&self, address: IpAddr) -> Option<String> {
        let mut text = String::new();
        let file = File::open(self.dir.join(address.to_string())).ok()?;
        file.take(MAX_LEASE_BYTES).read_to_string(&mut text).ok()?;
        Some(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    fn remove(&self, address: IpAddr) -> Result<(), NetworkError> {
        let path = self.dir.join(address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => {
                other.map_err(|source| NetworkError::Lease { action: "give back", path, source })
            }
        }
    }

    fn lock(&self) -> Result<File, NetworkError> {
        let path = self.dir.join("lock");
        let locked = || {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        locked().map_err(|source| NetworkError::Lease {
            action: "lock",
            path: path.clone(),
            source,
        })
    }

    fn failed(&self, action: &'static str, source: io::Error) -> NetworkError {
        NetworkError::Lease { action, path: self.dir.clone(), source }
    }

    fn not_free(&self, address: IpAddr, why: &'static str) -> NetworkError {
        NetworkError::AddressRefused { address, dir: self.dir.clone(), why }
    }
}

/// Writes a short file in its place. One that is emptied first gives its block back, and where
/// the disk is told of free blocks the kernel waits for it.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(bytes)?;
    let length = bytes.len() as u64;
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    Ok(())
}

impl Range {
    fn holds(&self, address: IpAddr) -> bool {
        self.subnet.contains(address)
            && (bits(self.first)..=bits(self.last)).contains(&bits(address))
    }

    fn given(&self, address: IpAddr) -> Option<Given> {
        let address = Subnet::new(address, self.subnet.prefix())?;
        Some(Given { address, gateway: self.gateway })
    }

    fn addresses(
        self,
        numbers: impl Iterator<Item = u128>,
    ) -> impl Iterator<Item = (Self, IpAddr)> {
        numbers.map(move |number| (self, from_bits(number, self.subnet.is_ipv6())))
    }
}

/// All addresses of a set, beginning behind the one that was given last.
fn candidates(ranges: &[Range], last: Option<IpAddr>) -> impl Iterator<Item = (Range, IpAddr)> {
    let start = last.and_then(|last| {
        let position = ranges.iter().position(|range| range.holds(last))?;
        Some((position, bits(last)))
    });
    let (position, after) = start.unwrap_or((0, bits(ranges[0].first).wrapping_sub(1)));
    let begun = ranges[position];
    let rest = begun.addresses(after.wrapping_add(1)..=bits(begun.last));
    let others = ranges[position + 1..].iter().chain(&ranges[..position]);
    let others: Vec<Range> = others.copied().collect();
    let others =
        others.into_iter().flat_map(|range| range.addresses(bits(range.first)..=bits(range.last)));
    rest.chain(others).chain(begun.addresses(bits(begun.first)..after.wrapping_add(1)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::native::plan::Ipam;

    fn range(subnet: &str) -> Range {
        let subnet: Subnet = subnet.parse().unwrap();
        let gateway = subnet.host(1);
        Range { subnet, first: subnet.host(1), last: subnet.last_host(), gateway }
    }

    fn ipam(dir: &Path, sets: &[&[&str]]) -> (Leases, Ipam) {
        let sets =
            sets.iter().map(|set| set.iter().map(|subnet| range(subnet)).collect()).collect();
        let dir = dir.join("net");
        let ipam = Ipam { dir: dir.clone(), sets, routes: Vec::new(), resolv_conf: None };
        (Leases::new(dir), ipam)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn leases_are_written_as_host_local_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, ipam) = ipam(dir.path(), &[&["10.213.0.0/24"], &["fd00::/64"]]);
        let id = SandboxId::random();
        assert!(leases.is_empty().unwrap());
        let given = leases.allocate(&ipam, &id, &[]).unwrap();
        let shown: Vec<_> = given.iter().map(|given| given.address.to_string()).collect();
        assert_eq!(shown, ["10.213.0.2/24", "fd00::2/64"]);
        assert_eq!(given[1].gateway, ip("fd00::1"));
        let read = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
        assert_eq!(read("10.213.0.2"), format!("{id}\r\neth0"));
        assert_eq!(read("fd00::2"), format!("{id}\r\neth0"));
        assert_eq!(read("last_reserved_ip.0"), "10.213.0.2");
        assert_eq!(read("last_reserved_ip.1"), "fd00::2");
        // A longer address before leaves nothing behind.
        let last = dir.path().join("net/last_reserved_ip.0");
        for text in ["10.213.0.200", "10.213.0.3", "10.213.0.45"] {
            overwrite(&last, text.as_bytes()).unwrap();
            assert_eq!(read("last_reserved_ip.0"), text);
        }
        overwrite(&last, b"10.213.0.2").unwrap();
        leases.release(&id, &[]).unwrap();
        leases.release(&id, &[]).unwrap();
        assert!(leases.is_empty().unwrap());
    }

    #[test]
    fn addresses_go_round_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, ipam) = ipam(dir.path(), &[&["10.213.1.0/29", "10.213.9.0/30"]]);
        let ids: Vec<_> = (0..6).map(|_| SandboxId::random()).collect();
        let take = |id: &SandboxId| leases.allocate(&ipam, id, &[]);
        let taken: Vec<_> =
            ids.iter().map(|id| take(id).unwrap()[0].address.address().to_string()).collect();
        let wanted =
            ["10.213.1.2", "10.213.1.3", "10.213.1.4", "10.213.1.5", "10.213.1.6", "10.213.9.2"];
        assert_eq!(taken, wanted);
        let full = take(&SandboxId::random());
        assert!(matches!(full, Err(NetworkError::NoFreeAddress { .. })), "{full:?}");
        leases.release(&ids[1], &[ip("10.213.1.3")]).unwrap();
        assert_eq!(take(&SandboxId::random()).unwrap()[0].address.address(), ip("10.213.1.3"));
    }

    #[test]
    fn a_wrong_hint_releases_the_right_address() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, ipam) = ipam(dir.path(), &[&["10.213.2.0/29"]]);
        let (one, two) = (SandboxId::random(), SandboxId::random());
        let first = leases.allocate(&ipam, &one, &[]).unwrap()[0].address.address();
        leases.allocate(&ipam, &two, &[]).unwrap();
        leases.release(&two, &[first]).unwrap();
        assert_eq!(leases.addresses().unwrap(), [first]);
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, ipam) = ipam(dir.path(), &[&["10.213.2.0/24"], &["fd00::/64"]]);
        let asked = [ip("fd00::77"), ip("10.213.2.9")];
        let given = leases.allocate(&ipam, &SandboxId::random(), &asked).unwrap();
        assert_eq!(given[0].address.to_string(), "10.213.2.9/24");
        assert_eq!(given[1].address.to_string(), "fd00::77/64");
        for refused in ["10.213.2.9", "10.213.2.1", "10.9.9.9"] {
            let id = SandboxId::random();
            let error = leases.allocate(&ipam, &id, &[ip(refused)]).unwrap_err();
            assert!(matches!(error, NetworkError::AddressRefused { .. }), "{error}");
            leases.release(&id, &[]).unwrap();
        }
    }

    #[test]
    fn only_known_leases_are_retained() {
        let dir = tempfile::tempdir().unwrap();
        let (leases, ipam) = ipam(dir.path(), &[&["10.213.3.0/24"]]);
        let (known, unknown) = (SandboxId::random(), SandboxId::random());
        let kept = leases.allocate(&ipam, &known, &[]).unwrap()[0].address.address();
        leases.allocate(&ipam, &unknown, &[]).unwrap();
        fs::write(dir.path().join("net/10.213.3.77"), "").unwrap();
        leases.retain(&BTreeSet::from([known.as_str()])).unwrap();
        assert_eq!(leases.addresses().unwrap(), [kept]);
    }
}
