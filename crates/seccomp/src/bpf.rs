//! Classic BPF: instructions, and an assembler that writes a program from its end.
//!
//! All jumps of classic BPF go forward. A program that is written backwards knows
//! every target before the jump to it, so one pass is enough and an offset that does
//! not fit is seen at once.

/// `BPF_MAXINSNS` of the kernel: a longer program is refused.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// The furthest that a conditional jump reaches: its offsets are bytes.
const MAX_SHORT_JUMP: usize = 255;

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// `struct sock_filter`: an instruction of classic BPF, laid out as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation, size and mode.
    pub code: u16,
    /// How many instructions a true test skips.
    pub jt: u8,
    /// How many instructions a false test skips.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// What a conditional jump compares the accumulator with its operand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Test {
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    Equal = 0x15,
    /// `BPF_JMP | BPF_JGT | BPF_K`.
    Greater = 0x25,
    /// `BPF_JMP | BPF_JGE | BPF_K`.
    GreaterOrEqual = 0x35,
}

/// Where control goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// The program ends with this value.
    Return(u32),
    /// To an instruction that is written already.
    Label(Label),
}

/// An instruction, counted from the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label(usize);

/// A program that grows towards its beginning.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The instructions, the last one first.
    reversed: Vec<SockFilter>,
    /// The nearest return of each value.
    returns: Vec<(u32, Label)>,
}

impl Assembler {
    /// How many instructions there are.
    pub(crate) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// The label of the instruction that was written last, which control reaches first.
    pub(crate) fn here(&self) -> Target {
        Target::Label(Label(self.reversed.len().saturating_sub(1)))
    }

    /// Writes a conditional jump before all that is written.
    pub(crate) fn branch(&mut self, test: Test, operand: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        let (mut yes, mut no) = (self.place(yes), self.place(no));
        // Bringing one target near may push the other out of reach; both are near
        // after at most two rounds each.
        loop {
            match (self.offset(yes), self.offset(no)) {
                (Some(jt), Some(jf)) => {
                    self.reversed.push(SockFilter { code: test as u16, jt, jf, k: operand });
                    return self.here();
                }
                (None, _) => yes = self.bring_near(yes),
                (_, None) => no = self.bring_near(no),
            }
        }
    }

    /// Writes a load of the word at `offset` of `struct seccomp_data`, going on at `next`.
    pub(crate) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.before(next, SockFilter { code: LOAD, jt: 0, jf: 0, k: offset })
    }

    /// Writes a mask over the accumulator, going on at `next`.
    pub(crate) fn mask(&mut self, mask: u32, next: Target) -> Target {
        self.before(next, SockFilter { code: AND, jt: 0, jf: 0, k: mask })
    }

    /// Ends the work: the program that starts at `entry`.
    pub(crate) fn finish(mut self, entry: Target) -> Vec<SockFilter> {
        let entry = self.place(entry);
        if self.here() != Target::Label(entry) {
            self.bring_near(entry);
        }
        self.reversed.reverse();
        self.reversed
    }

    /// Writes an instruction that falls through to `next`.
    fn before(&mut self, next: Target, instruction: SockFilter) -> Target {
        let next = self.place(next);
        if self.here() != Target::Label(next) {
            self.bring_near(next);
        }
        self.reversed.push(instruction);
        self.here()
    }

    /// Turns a target into a label, writing a return where none is near.
    fn place(&mut self, target: Target) -> Label {
        let value = match target {
            Target::Label(label) => return label,
            Target::Return(value) => value,
        };
        let known = self.returns.iter().find(|(known, _)| *known == value).map(|(_, label)| *label);
        match known {
            // Two instructions of slack: the jump may be preceded by a trampoline.
            Some(label) if self.distance(label) + 2 <= MAX_SHORT_JUMP => label,
            _ => self.write_return(value),
        }
    }

    fn write_return(&mut self, value: u32) -> Label {
        self.reversed.push(SockFilter { code: RETURN, jt: 0, jf: 0, k: value });
        let label = Label(self.reversed.len() - 1);
        self.returns.retain(|(known, _)| *known != value);
        self.returns.push((value, label));
        label
    }

    /// Writes an unconditional jump to a label, or repeats the return that stands there.
    fn bring_near(&mut self, label: Label) -> Label {
        let there = self.reversed[label.0];
        if there.code == RETURN {
            return self.write_return(there.k);
        }
        let k = u32::try_from(self.distance(label)).unwrap_or(u32::MAX);
        self.reversed.push(SockFilter { code: JUMP, jt: 0, jf: 0, k });
        Label(self.reversed.len() - 1)
    }

    /// How many instructions an instruction written now skips to reach the label.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0 - 1
    }

    fn offset(&self, label: Label) -> Option<u8> {
        u8::try_from(self.distance(label)).ok()
    }
}
