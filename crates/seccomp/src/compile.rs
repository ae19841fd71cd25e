//! From a profile to a program.
//!
//! ```text
//! load arch ── x86_64 ─ load nr ─ ≥ 0x40000000 ─ x32's tree
//!     │                     └──── x86_64's tree ─ conditions on arguments ─ action
//!     ├─────── i386 ─── load nr ─ i386's tree
//!     └─────── other ── kill the process
//! ```
//!
//! Of the rules that name a call, the first one whose conditions all hold decides;
//! where none does, the default action. A number above all that the profile names gets
//! ENOSYS, so that programs fall back to older calls instead of failing (as runc does).

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompFilterFlag as Flag,
};

use crate::{
    Error,
    arch::{ARM_PRIVATE_BASE, Abi, Machine, X32_BIT},
    bpf::{Assembler, MAX_INSTRUCTIONS, SockFilter, Target, Test},
    rules::{Chain, RuleSet, return_value},
};

/// Offset of the number in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
/// Offset of the architecture in `struct seccomp_data`.
const ARCH_OFFSET: u32 = 4;

/// `SECCOMP_RET_KILL_PROCESS`.
const KILL_PROCESS: u32 = 0x8000_0000;
/// `SECCOMP_RET_ERRNO | ENOSYS`.
const RETURN_ENOSYS: u32 = 0x0005_0000 | 38;

/// `SECCOMP_FILTER_FLAG_TSYNC`.
pub const FLAG_TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`.
pub const FLAG_LOG: u32 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const FLAG_SPEC_ALLOW: u32 = 4;

/// A filter, ready for `seccomp(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<SockFilter>,
    flags: u32,
}

impl Program {
    pub(crate) fn from_parts(instructions: Vec<SockFilter>, flags: u32) -> Self {
        Self { instructions, flags }
    }

    /// Returns the instructions: at least one, and never more than the kernel takes.
    pub fn instructions(&self) -> &[SockFilter] {
        &self.instructions
    }

    /// Returns the flags of `SECCOMP_SET_MODE_FILTER` (`SECCOMP_FILTER_FLAG_*`).
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

/// Compiles a profile for the machine that this program runs on.
///
/// # Errors
///
/// The profile asks for what a filter cannot do: see [`Error`]. Names of calls that are
/// not known are not an error: the kernel that has them may come later.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    compile_for(Machine::native().ok_or(Error::UnsupportedMachine)?, profile)
}

/// Compiles a profile for a machine.
///
/// # Errors
///
/// As [`compile`].
pub fn compile_for(machine: Machine, profile: &LinuxSeccomp) -> Result<Program, Error> {
    let default =
        return_value(profile.default_action(), profile.default_errno_ret(), "the default")?;
    let mut compiler = Compiler {
        assembler: Assembler::default(),
        profile,
        default,
        enosys: wants_enosys(profile, default),
    };
    let entry = compiler.machine(machine)?;
    let instructions = compiler.assembler.finish(entry);
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong { limit: MAX_INSTRUCTIONS });
    }
    Ok(Program { instructions, flags: flags(profile.flags().as_deref()) })
}

struct Compiler<'a> {
    assembler: Assembler,
    profile: &'a LinuxSeccomp,
    default: u32,
    enosys: bool,
}

impl Compiler<'_> {
    /// The whole program: which convention the call came by, then its tree.
    fn machine(&mut self, machine: Machine) -> Result<Target, Error> {
        let entry = match machine {
            Machine::X86_64 => {
                let i386 = self.optional(Arch::ScmpArchX86, Abi::I386)?;
                let x32 = self.optional(Arch::ScmpArchX32, Abi::X32)?;
                let native = self.tree(Abi::X86_64)?;
                // The number is in the accumulator already; -1 is what a tracer writes
                // to skip a call and is not x32's.
                let x32 = self.assembler.branch(Test::Equal, u32::MAX, native, x32);
                let native = self.assembler.branch(Test::GreaterOrEqual, X32_BIT, x32, native);
                let native = self.assembler.load(NUMBER_OFFSET, native);
                let i386 = self.convention(i386);
                self.dispatch(&[(0xc000_003e, native), (0x4000_0003, i386)])
            }
            Machine::Aarch64 => {
                let arm = self.optional(Arch::ScmpArchArm, Abi::Arm)?;
                let arm = self.convention(arm);
                let native = self.tree(Abi::Aarch64)?;
                let native = self.assembler.load(NUMBER_OFFSET, native);
                self.dispatch(&[(0xc000_00b7, native), (0x4000_0028, arm)])
            }
        };
        Ok(entry)
    }

    /// The tests of the kernel's `AUDIT_ARCH_*`; any other one kills.
    fn dispatch(&mut self, conventions: &[(u32, Target)]) -> Target {
        let mut entry = Target::Return(KILL_PROCESS);
        for (audit, target) in conventions.iter().rev() {
            entry = self.assembler.branch(Test::Equal, *audit, *target, entry);
        }
        self.assembler.load(ARCH_OFFSET, entry)
    }

    /// The tree of a convention that the profile may name or not.
    fn optional(&mut self, arch: Arch, abi: Abi) -> Result<Target, Error> {
        let named = self.profile.architectures().as_ref().is_some_and(|all| all.contains(&arch));
        if named { self.tree(abi) } else { Ok(Target::Return(KILL_PROCESS)) }
    }

    /// A tree with the number loaded before it, unless it is a plain return.
    fn convention(&mut self, tree: Target) -> Target {
        match tree {
            Target::Return(_) => tree,
            Target::Label(_) => self.assembler.load(NUMBER_OFFSET, tree),
        }
    }

    /// The search tree over a convention's numbers. The accumulator holds the number.
    fn tree(&mut self, abi: Abi) -> Result<Target, Error> {
        let rules = RuleSet::of(self.profile, abi)?;
        let mut chains: Vec<(&Chain, Target)> = Vec::new();
        let mut ranges = Ranges::new(abi, &rules, self.default, self.enosys);
        for (number, chain) in rules.calls() {
            let target = match chains.iter().find(|(known, _)| *known == chain) {
                Some((_, target)) => *target,
                None => {
                    let target = chain.emit(&mut self.assembler, self.default);
                    chains.push((chain, target));
                    target
                }
            };
            self.check_length()?;
            ranges.set(number, target);
        }
        let ranges = ranges.merged();
        let tree = self.search(&ranges);
        self.check_length()?;
        Ok(tree)
    }

    /// A balanced search: `ranges` are the first numbers and their targets, ascending.
    fn search(&mut self, ranges: &[(u32, Target)]) -> Target {
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let Some((bound, target)) = right.first() else { return Target::Return(self.default) };
        if left.is_empty() {
            return *target;
        }
        let above = self.search(right);
        let below = self.search(left);
        self.assembler.branch(Test::GreaterOrEqual, *bound, above, below)
    }

    /// Stops early, so that a huge profile costs no more than a large one.
    fn check_length(&self) -> Result<(), Error> {
        if self.assembler.len() > MAX_INSTRUCTIONS {
            return Err(Error::TooLong { limit: MAX_INSTRUCTIONS });
        }
        Ok(())
    }
}

/// A function of a call's number, as ranges: each from its first number to the next's.
struct Ranges {
    starts: Vec<(u32, Target)>,
    /// What single numbers get, ascending.
    singles: Vec<(u32, Target)>,
}

impl Ranges {
    /// What numbers get that no rule names: the default up to the highest that one
    /// names, ENOSYS above it.
    fn new(abi: Abi, rules: &RuleSet, default: u32, enosys: bool) -> Self {
        let default = Target::Return(default);
        let beyond = if enosys { Target::Return(RETURN_ENOSYS) } else { default };
        let mut starts = vec![(0, default)];
        let newest = rules.newest(|number| abi != Abi::Arm || number < ARM_PRIVATE_BASE);
        if let Some(newest) = newest {
            starts.push((newest + 1, beyond));
        }
        Self { starts, singles: Vec::new() }
    }

    /// Gives one number a target. Numbers come in ascending order.
    fn set(&mut self, number: u32, target: Target) {
        self.singles.push((number, target));
    }

    /// The ranges, neighbours with the same target joined.
    fn merged(self) -> Vec<(u32, Target)> {
        let background = |number: u32| {
            self.starts.iter().rev().find(|(start, _)| *start <= number).map(|(_, target)| *target)
        };
        let mut edges = self.starts.clone();
        for (number, target) in &self.singles {
            edges.push((*number, *target));
            if let (Some(next), Some(target)) = (number.checked_add(1), background(number + 1)) {
                edges.push((next, target));
            }
        }
        // Of the edges at one number the last one counts: the sort is stable, and a single
        // number's own edge was added after the end of its lower neighbour.
        edges.sort_by_key(|(start, _)| *start);
        let mut merged: Vec<(u32, Target)> = Vec::with_capacity(edges.len());
        for edge in edges {
            match merged.last_mut() {
                Some(last) if last.0 == edge.0 => last.1 = edge.1,
                _ => merged.push(edge),
            }
        }
        merged.dedup_by(|next, kept| next.1 == kept.1);
        merged
    }
}

/// Whether numbers that the profile cannot know get ENOSYS: only where the default
/// refuses them, and refuses them in another way.
fn wants_enosys(profile: &LinuxSeccomp, default: u32) -> bool {
    !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog)
        && default != RETURN_ENOSYS
}

/// The flags of a profile. None given is the speculation flag alone, as runc has it: a
/// filter of ours is no secret, and without the flag old kernels slow every call.
fn flags(flags: Option<&[Flag]>) -> u32 {
    let Some(flags) = flags else { return FLAG_SPEC_ALLOW };
    flags.iter().fold(0, |all, flag| {
        all | match flag {
            Flag::SeccompFilterFlagLog => FLAG_LOG,
            Flag::SeccompFilterFlagTsync => FLAG_TSYNC,
            Flag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // It speaks of notifications, which no filter of ours makes.
            Flag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}
