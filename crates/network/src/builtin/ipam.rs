//! Addresses of the built-in network, on disk in the format of the host-local plugin: a
//! file per address that holds the sandbox's id and the interface, `last_reserved_ip.0`
//! for going round, `lock` for one at a time.
//!
//! A lease is there before its address is used and goes after the address is gone.
//! Giving back needs no free disk block.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use types::SandboxId;

use crate::{INTERFACE, Ipv4Subnet, NetworkError};

/// What host-local writes between the id and the interface.
const LINE_BREAK: &str = "\r\n";
/// The address given last, of the first (our only) range.
const LAST_RESERVED: &str = "last_reserved_ip.0";
/// The longest lease that is read: an id and an interface's name.
const MAX_LEASE_BYTES: u64 = 256;

/// The leases of one subnet.
#[derive(Debug)]
pub(crate) struct Ipam {
    dir: PathBuf,
    subnet: Ipv4Subnet,
}

/// An address and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// The sandbox's id, or whatever else stands there.
    pub(crate) owner: String,
}

impl Ipam {
    /// Names the directory of the leases; it is made with the first one.
    pub(crate) fn new(dir: PathBuf, subnet: Ipv4Subnet) -> Self {
        Self { dir, subnet }
    }

    /// Takes the next free address for a sandbox.
    pub(crate) fn allocate(&self, id: &SandboxId) -> Result<Ipv4Addr, NetworkError> {
        fs::create_dir_all(&self.dir).map_err(|source| self.failed("make leases of", source))?;
        let _lock = self.lock()?;
        let text = format!("{id}{LINE_BREAK}{INTERFACE}");
        for address in self.candidates() {
            let path = self.dir.join(address.to_string());
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    if let Err(source) = file.write_all(text.as_bytes()) {
                        let _ = fs::remove_file(&path);
                        return Err(NetworkError::Lease { action: "take", path, source });
                    }
                    self.remember(address)?;
                    return Ok(address);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(NetworkError::Lease { action: "take", path, source }),
            }
        }
        Err(NetworkError::NoFreeAddress { subnet: self.subnet })
    }

    /// Gives back all addresses of a sandbox. `hint` is looked at first and spares the
    /// search where it is right.
    pub(crate) fn release(
        &self,
        id: &SandboxId,
        hint: Option<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        if let Some(address) = hint
            && read_owner(&self.dir.join(address.to_string())).as_deref() == Some(id.as_str())
        {
            return self.remove(address);
        }
        for lease in self.leases()? {
            if lease.owner == id.as_str() {
                self.remove(lease.address)?;
            }
        }
        Ok(())
    }

    /// Gives back all addresses whose owner is not among the known ones.
    pub(crate) fn retain(&self, known: &BTreeSet<&str>) -> Result<(), NetworkError> {
        for lease in self.leases()? {
            if !known.contains(lease.owner.as_str()) {
                self.remove(lease.address)?;
            }
        }
        Ok(())
    }

    /// Returns all leases.
    pub(crate) fn leases(&self) -> Result<Vec<Lease>, NetworkError> {
        let mut leases = Vec::new();
        for address in self.addresses()? {
            let owner = read_owner(&self.dir.join(address.to_string())).unwrap_or_default();
            leases.push(Lease { address, owner });
        }
        Ok(leases)
    }

    /// Reports whether no address is taken.
    pub(crate) fn is_empty(&self) -> Result<bool, NetworkError> {
        Ok(self.addresses()?.is_empty())
    }

    fn addresses(&self) -> Result<Vec<Ipv4Addr>, NetworkError> {
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

    /// All addresses for pods, beginning behind the one that was given last.
    fn candidates(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, last) = (self.subnet.first_pod().to_bits(), self.subnet.last_pod().to_bits());
        let start = fs::read_to_string(self.dir.join(LAST_RESERVED))
            .ok()
            .and_then(|text| text.trim().parse::<Ipv4Addr>().ok())
            .map(Ipv4Addr::to_bits)
            .filter(|given| (first..last).contains(given))
            .map_or(first, |given| given + 1);
        (start..=last).chain(first..start).map(Ipv4Addr::from_bits)
    }

    fn remember(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let path = self.dir.join(LAST_RESERVED);
        fs::write(&path, address.to_string()).map_err(|source| {
            // Without it the same address would be tried first for ever: harmless, but the
            // disk is full, and the pod's record will fail next.
            let _ = self.remove(address);
            NetworkError::Lease { action: "remember", path, source }
        })
    }

    fn remove(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
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
}

/// Reads whose a lease is; `None` where it cannot be read.
fn read_owner(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_LEASE_BYTES).read_to_string(&mut text).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(dir: &Path, subnet: &str) -> Ipam {
        Ipam::new(dir.join("net"), subnet.parse().unwrap())
    }

    #[test]
    fn leases_are_written_as_host_local_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.213.0.0/24");
        let id = SandboxId::random();
        assert!(ipam.is_empty().unwrap());
        assert_eq!(ipam.allocate(&id).unwrap(), Ipv4Addr::new(10, 213, 0, 2));
        let text = fs::read_to_string(dir.path().join("net/10.213.0.2")).unwrap();
        assert_eq!(text, format!("{id}\r\neth0"));
        let last = fs::read_to_string(dir.path().join("net/last_reserved_ip.0")).unwrap();
        assert_eq!(last, "10.213.0.2");
        ipam.release(&id, None).unwrap();
        ipam.release(&id, None).unwrap();
        assert!(ipam.is_empty().unwrap());
    }

    #[test]
    fn addresses_go_round_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.213.1.0/29");
        let ids: Vec<_> = (0..5).map(|_| SandboxId::random()).collect();
        let taken: Vec<_> = ids.iter().map(|id| ipam.allocate(id).unwrap().octets()[3]).collect();
        assert_eq!(taken, [2, 3, 4, 5, 6]);
        let full = ipam.allocate(&SandboxId::random());
        assert!(matches!(full, Err(NetworkError::NoFreeAddress { .. })), "{full:?}");
        ipam.release(&ids[1], Some(Ipv4Addr::new(10, 213, 1, 3))).unwrap();
        assert_eq!(ipam.allocate(&SandboxId::random()).unwrap().octets()[3], 3);
    }

    #[test]
    fn a_wrong_hint_releases_the_right_address() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.213.2.0/29");
        let (one, two) = (SandboxId::random(), SandboxId::random());
        let first = ipam.allocate(&one).unwrap();
        let second = ipam.allocate(&two).unwrap();
        ipam.release(&two, Some(first)).unwrap();
        let left = ipam.leases().unwrap();
        assert_eq!(left, [Lease { address: first, owner: one.to_string() }]);
        assert_ne!(first, second);
    }

    #[test]
    fn only_known_leases_are_retained() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.213.3.0/24");
        let (known, unknown) = (SandboxId::random(), SandboxId::random());
        let kept = ipam.allocate(&known).unwrap();
        ipam.allocate(&unknown).unwrap();
        fs::write(dir.path().join("net/10.213.3.77"), "").unwrap();
        ipam.retain(&BTreeSet::from([known.as_str()])).unwrap();
        let left = ipam.leases().unwrap();
        assert_eq!(left, [Lease { address: kept, owner: known.to_string() }]);
    }

    #[test]
    fn parallel_takers_get_different_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = ipam(dir.path(), "10.213.4.0/24");
        let taken: BTreeSet<_> = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| ipam.allocate(&SandboxId::random()).unwrap()))
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 8);
    }
}
