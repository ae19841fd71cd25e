//! A profile's rules, sorted by call: each call's chain of conditions and actions.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};

use crate::{
    Error,
    arch::Abi,
    bpf::{Assembler, MAX_INSTRUCTIONS, Target, Test},
};

/// Offset of the first argument in `struct seccomp_data`; each has eight bytes.
const ARGUMENTS_OFFSET: u32 = 16;
/// How many arguments a call has.
const ARGUMENTS: usize = 6;
/// `MAX_ERRNO` of the kernel.
const MAX_ERRNO: u32 = 4095;
/// What `SECCOMP_RET_DATA` holds.
const MAX_TRACE_VALUE: u32 = 0xffff;
/// EPERM: what ERRNO and TRACE return where the profile does not say.
const DEFAULT_ERRNO: u32 = 1;

/// How many names all rules together may have. Docker's profile has about 500; the limit
/// bounds the work for a profile that somebody else wrote.
pub const MAX_NAMES: usize = 16_384;
/// How many conditions a rule may have.
pub const MAX_CONDITIONS: usize = 16;

/// What happens to a call: rules in order, the first that holds decides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    argument: u32,
    operator: Operator,
    value: u64,
    /// The second value: what the masked argument must equal.
    masked: u64,
}

/// The chains of one calling convention, ascending by number.
#[derive(Debug)]
pub(crate) struct RuleSet {
    calls: Vec<(u32, Chain)>,
}

impl RuleSet {
    /// Sorts a profile's rules for a convention, leaving out calls that it does not have.
    pub(crate) fn of(profile: &LinuxSeccomp, abi: Abi) -> Result<Self, Error> {
        let syscalls = profile.syscalls().as_deref().unwrap_or_default();
        let count = syscalls.iter().map(|syscall| syscall.names().len()).sum();
        if count > MAX_NAMES {
            return Err(Error::TooMany { what: "names", count, limit: MAX_NAMES });
        }
        let mut found: Vec<(u32, Rule)> = Vec::with_capacity(count);
        for syscall in syscalls {
            let rule = Rule::of(syscall)?;
            for name in syscall.names() {
                if let Some(number) = abi.number(name) {
                    found.push((number, rule.clone()));
                }
                if let Some((number, rule)) = multiplexed(abi, name, &rule, syscall.action()) {
                    found.push((number, rule));
                }
            }
        }
        // Stable: the rules of one call stay in the profile's order.
        found.sort_by_key(|(number, _)| *number);
        let mut calls: Vec<(u32, Chain)> = Vec::new();
        for (number, rule) in found {
            match calls.last_mut() {
                Some((last, chain)) if *last == number => chain.push(rule)?,
                _ => calls.push((number, Chain { rules: vec![rule] })),
            }
        }
        Ok(Self { calls })
    }

    /// The calls that rules name, ascending by number.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (u32, &Chain)> {
        self.calls.iter().map(|(number, chain)| (*number, chain))
    }

    /// The highest number that a rule names, of those that count.
    pub(crate) fn newest(&self, counts: impl Fn(u32) -> bool) -> Option<u32> {
        self.calls.iter().map(|(number, _)| *number).filter(|number| counts(*number)).max()
    }
}

/// The rule's twin for the multiplexer that leads to the same call.
///
/// A multiplexer keeps the call's arguments in memory, where no filter can look. A rule
/// with conditions therefore has a twin only if it restricts: the twin then refuses the
/// call whatever its arguments are. One that allows is not widened.
fn multiplexed(abi: Abi, name: &str, rule: &Rule, action: Action) -> Option<(u32, Rule)> {
    let (multiplexer, code) = abi.multiplexed(name)?;
    let permits = matches!(action, Action::ScmpActAllow | Action::ScmpActLog);
    if permits && !rule.conditions.is_empty() {
        return None;
    }
    let condition =
        Condition { argument: 0, operator: Operator::ScmpCmpEq, value: code, masked: 0 };
    let twin = Rule { conditions: vec![condition], action: rule.action };
    Some((abi.number(multiplexer)?, twin))
}

impl Chain {
    /// Adds a rule, unless one before it decides in every case.
    fn push(&mut self, rule: Rule) -> Result<(), Error> {
        let decided = self.rules.last().is_some_and(|last| last.conditions.is_empty());
        if decided || self.rules.contains(&rule) {
            return Ok(());
        }
        // Each rule has instructions of its own, so that a longer chain cannot fit.
        if self.rules.len() >= MAX_INSTRUCTIONS {
            return Err(Error::TooLong { limit: MAX_INSTRUCTIONS });
        }
        self.rules.push(rule);
        Ok(())
    }

    /// Writes the chain and returns where it begins. The accumulator need hold nothing.
    pub(crate) fn emit(&self, assembler: &mut Assembler, default: u32) -> Target {
        let mut next = Target::Return(default);
        for rule in self.rules.iter().rev() {
            let mut matched = Target::Return(rule.action);
            for condition in rule.conditions.iter().rev() {
                matched = condition.emit(assembler, matched, next);
            }
            next = matched;
        }
        next
    }
}

impl Rule {
    fn of(syscall: &LinuxSyscall) -> Result<Self, Error> {
        let first = syscall.names().first().map_or("no call", String::as_str);
        let action = return_value(syscall.action(), syscall.errno_ret(), first)?;
        let args = syscall.args().as_deref().unwrap_or_default();
        if args.len() > MAX_CONDITIONS {
            let (what, count) = ("conditions in a rule", args.len());
            return Err(Error::TooMany { what, count, limit: MAX_CONDITIONS });
        }
        let conditions =
            args.iter().map(|arg| Condition::of(arg, first)).collect::<Result<_, _>>()?;
        Ok(Self { conditions, action })
    }
}

impl Condition {
    fn of(arg: &LinuxSeccompArg, call: &str) -> Result<Self, Error> {
        let argument = u32::try_from(arg.index())
            .ok()
            .filter(|_| arg.index() < ARGUMENTS)
            .ok_or_else(|| Error::ArgumentIndex { call: call.to_owned(), index: arg.index() })?;
        let masked = arg.value_two().unwrap_or(0);
        Ok(Self { argument, operator: arg.op(), value: arg.value(), masked })
    }

    /// Writes the test of all 64 bits and returns where it begins.
    fn emit(self, assembler: &mut Assembler, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // All machines here are little-endian: the low word comes first.
        let low_word = ARGUMENTS_OFFSET + 8 * self.argument;
        let high_word = low_word + 4;
        let (low, high) = halves(self.value);
        let compare = |assembler: &mut Assembler, test, yes, no| {
            let words = assembler.branch(test, low, yes, no);
            let words = assembler.load(low_word, words);
            let words = assembler.branch(Test::Equal, high, words, no);
            if test == Test::Equal {
                assembler.load(high_word, words)
            } else {
                let words = assembler.branch(Test::Greater, high, yes, words);
                assembler.load(high_word, words)
            }
        };
        match self.operator {
            Operator::ScmpCmpEq => compare(assembler, Test::Equal, yes, no),
            Operator::ScmpCmpNe => compare(assembler, Test::Equal, no, yes),
            Operator::ScmpCmpGt => compare(assembler, Test::Greater, yes, no),
            Operator::ScmpCmpGe => compare(assembler, Test::GreaterOrEqual, yes, no),
            Operator::ScmpCmpLe => compare(assembler, Test::Greater, no, yes),
            Operator::ScmpCmpLt => compare(assembler, Test::GreaterOrEqual, no, yes),
            Operator::ScmpCmpMaskedEq => {
                let (low_value, high_value) = halves(self.masked);
                let low_test = assembler.branch(Test::Equal, low_value, yes, no);
                let low_test = assembler.mask(low, low_test);
                let low_test = assembler.load(low_word, low_test);
                if high == 0 && high_value == 0 {
                    return low_test;
                }
                let high_test = assembler.branch(Test::Equal, high_value, low_test, no);
                let high_test = assembler.mask(high, high_test);
                assembler.load(high_word, high_test)
            }
        }
    }
}

/// What the filter returns for an action.
pub(crate) fn return_value(action: Action, value: Option<u32>, place: &str) -> Result<u32, Error> {
    let data = |limit: u32| {
        let value = value.unwrap_or(DEFAULT_ERRNO);
        if value > limit {
            return Err(Error::ReturnValue { place: place.to_owned(), value, limit });
        }
        Ok(value)
    };
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => 0,
        Action::ScmpActKillProcess => 0x8000_0000,
        Action::ScmpActTrap => 0x0003_0000,
        Action::ScmpActErrno => 0x0005_0000 | data(MAX_ERRNO)?,
        Action::ScmpActTrace => 0x7ff0_0000 | data(MAX_TRACE_VALUE)?,
        Action::ScmpActLog => 0x7ffc_0000,
        Action::ScmpActAllow => 0x7fff_0000,
        Action::ScmpActNotify => {
            return Err(Error::NotifyUnsupported { place: place.to_owned() });
        }
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
