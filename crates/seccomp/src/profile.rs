//! Profiles from files: OCI's form, and Docker's, whose rules may depend on the machine,
//! the kernel and the container's capabilities.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use crate::{Error, Machine, compile_for};

/// The longest file that is read as a profile. Docker's default has 20 KiB.
pub const MAX_PROFILE_BYTES: usize = 1024 * 1024;
/// How many rules a profile may have.
pub const MAX_RULES: usize = 4096;
/// How much of a wrong text an error shows.
const SHOWN: usize = 32;

/// What the rules of a profile may depend on.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// The machine.
    pub machine: Machine,
    /// The kernel's version: major, minor.
    pub kernel: (u32, u32),
    /// The container's bounding set: names with `CAP_`.
    pub capabilities: &'a BTreeSet<&'a str>,
}

/// Reads a profile in the form of OCI or Docker and settles what depends on the host.
/// What it returns compiles. Fields that are not known are passed over, as other runtimes
/// do.
///
/// # Errors
///
/// The text is too long, not in one of the two forms, contradicts itself, or cannot be
/// made into a filter.
pub fn read_profile(text: &[u8], host: &Host<'_>) -> Result<LinuxSeccomp, Error> {
    if text.len() > MAX_PROFILE_BYTES {
        return Err(Error::TooLarge { length: text.len(), limit: MAX_PROFILE_BYTES });
    }
    let file: File = serde_json::from_slice(text).map_err(|source| Error::Syntax { source })?;
    let profile = file.settle(host)?;
    compile_for(host.machine, &profile)?;
    Ok(profile)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMapEntry>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    syscalls: Option<Vec<FileRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMapEntry {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileRule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Dependency>,
    excludes: Option<Dependency>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl File {
    fn settle(self, host: &Host<'_>) -> Result<LinuxSeccomp, Error> {
        let rules = self.syscalls.unwrap_or_default();
        if rules.len() > MAX_RULES {
            let (what, count) = ("rules", rules.len());
            return Err(Error::TooMany { what, count, limit: MAX_RULES });
        }
        let mut syscalls = Vec::with_capacity(rules.len());
        for (index, rule) in rules.into_iter().enumerate() {
            syscalls.extend(rule.settle(index, host)?);
        }
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(self.default_action);
        profile.set_default_errno_ret(self.default_errno_ret);
        profile.set_architectures(architectures(self.architectures, self.arch_map, host.machine)?);
        profile.set_flags(self.flags);
        profile.set_syscalls(Some(syscalls));
        Ok(profile)
    }
}

fn architectures(
    plain: Option<Vec<Arch>>,
    map: Option<Vec<ArchMapEntry>>,
    machine: Machine,
) -> Result<Option<Vec<Arch>>, Error> {
    let map = map.unwrap_or_default();
    if map.is_empty() {
        return Ok(plain);
    }
    if plain.is_some_and(|plain| !plain.is_empty()) {
        return Err(Error::TwoArchitectureLists);
    }
    let own = match machine {
        Machine::X86_64 => Arch::ScmpArchX86_64,
        Machine::Aarch64 => Arch::ScmpArchAarch64,
    };
    let entry = map.into_iter().find(|entry| entry.architecture == own);
    Ok(entry.map(|entry| {
        let mut all = vec![entry.architecture];
        all.extend(entry.sub_architectures.unwrap_or_default());
        all
    }))
}

impl FileRule {
    /// The rule as OCI has it, or `None` where it does not apply on this host.
    fn settle(self, index: usize, host: &Host<'_>) -> Result<Option<LinuxSyscall>, Error> {
        let name = self.name.filter(|name| !name.is_empty());
        let names = match (name, self.names.unwrap_or_default()) {
            (Some(name), names) if names.is_empty() => vec![name],
            (None, names) if !names.is_empty() => names,
            _ => return Err(Error::RuleNames { index }),
        };
        let included = match &self.includes {
            Some(includes) => includes.all_hold(host)?,
            None => true,
        };
        let excluded = match &self.excludes {
            Some(excludes) => excludes.one_holds(host)?,
            None => false,
        };
        if !included || excluded {
            return Ok(None);
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(self.action);
        rule.set_errno_ret(self.errno_ret);
        rule.set_args(self.args.filter(|args| !args.is_empty()));
        Ok(Some(rule))
    }
}

impl Dependency {
    fn all_hold(&self, host: &Host<'_>) -> Result<bool, Error> {
        let has = |cap: &String| host.capabilities.contains(cap.as_str());
        Ok(self.caps().iter().all(has)
            && (self.arches().is_empty() || self.names(host.machine))
            && self.kernel(host)?.unwrap_or(true))
    }

    fn one_holds(&self, host: &Host<'_>) -> Result<bool, Error> {
        let has = |cap: &String| host.capabilities.contains(cap.as_str());
        Ok(self.caps().iter().any(has)
            || self.names(host.machine)
            || self.kernel(host)?.unwrap_or(false))
    }

    fn caps(&self) -> &[String] {
        self.caps.as_deref().unwrap_or_default()
    }

    fn arches(&self) -> &[String] {
        self.arches.as_deref().unwrap_or_default()
    }

    /// Whether the machine is among those that are listed, under Go's names.
    fn names(&self, machine: Machine) -> bool {
        let own = match machine {
            Machine::X86_64 => "amd64",
            Machine::Aarch64 => "arm64",
        };
        self.arches().iter().any(|arch| arch == own)
    }

    /// Whether the kernel is at least the one asked for; `None` where none is.
    fn kernel(&self, host: &Host<'_>) -> Result<Option<bool>, Error> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let wrong = || Error::KernelVersion { text: text.chars().take(SHOWN).collect() };
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        Ok(Some(host.kernel >= (number(major)?, number(minor)?)))
    }
}
