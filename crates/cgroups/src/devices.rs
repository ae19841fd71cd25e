//! Device rules of cgroup v2: a small program that the kernel asks at every access
//! (kernel: bpf/prog_cgroup_device; `struct bpf_cgroup_dev_ctx`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use sys::bpf::{self, Instruction};

use crate::{DeviceAccess, DeviceKind, DeviceRule};

const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb4;
const JUMP_IF_NOT_IMMEDIATE: u8 = 0x56;
const JUMP_IF_IMMEDIATE: u8 = 0x16;
const JUMP_IF_NOT_REGISTER: u8 = 0x5e;
const EXIT: u8 = 0x95;

/// Registers: the answer, the context (later scratch), type, access, major, minor.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Puts a program for `rules` in the place of those that are attached.
pub(crate) fn replace(cgroup: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let old = bpf::device_programs(cgroup)?;
    let program = bpf::load_device_program(&compile(rules)?)?;
    bpf::attach_device_program(cgroup, program.as_fd())?;
    for program in old {
        bpf::detach_device_program(cgroup, program.as_fd())?;
    }
    Ok(())
}

/// Compiles rules, of which the last that matches wins: they are asked from the last
/// to the first, and nothing is allowed where none matches.
fn compile(rules: &[DeviceRule]) -> io::Result<Vec<Instruction>> {
    let mut program = vec![
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        instruction(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        instruction(SHIFT_RIGHT_IMMEDIATE, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule)?);
        // The kernel refuses a program with instructions that nothing leads to.
        if is_for_all(rule) {
            return Ok(program);
        }
    }
    program.extend(answer(false));
    Ok(program)
}

/// Tells whether a rule matches every access.
fn is_for_all(rule: &DeviceRule) -> bool {
    rule.kind == DeviceKind::All && rule.access == DeviceAccess::ALL
}

fn block(rule: &DeviceRule) -> io::Result<Vec<Instruction>> {
    let mut block = Vec::new();
    let kind = match rule.kind {
        DeviceKind::All => None,
        DeviceKind::Block => Some(1),
        DeviceKind::Char => Some(2),
    };
    let (major, minor) = match kind {
        None => (None, None),
        Some(kind) => {
            block.push(instruction(JUMP_IF_NOT_IMMEDIATE, TYPE, 0, 0, kind));
            (rule.major, rule.minor)
        }
    };
    if rule.access != DeviceAccess::ALL {
        let bits = access_bits(rule.access);
        block.push(instruction(MOVE_REGISTER, CONTEXT, ACCESS, 0, 0));
        block.push(instruction(AND_IMMEDIATE, CONTEXT, 0, 0, bits));
        // Allowed where all that is asked for is in the rule; refused where any of it is.
        block.push(if rule.allow {
            instruction(JUMP_IF_NOT_REGISTER, CONTEXT, ACCESS, 0, 0)
        } else {
            instruction(JUMP_IF_IMMEDIATE, CONTEXT, 0, 0, 0)
        });
    }
    for (register, number) in [(MAJOR, major), (MINOR, minor)] {
        if let Some(number) = number {
            block.push(instruction(JUMP_IF_NOT_IMMEDIATE, register, 0, 0, number.cast_signed()));
        }
    }
    block.extend(answer(rule.allow));
    let end = block.len();
    for (at, i) in block.iter_mut().enumerate() {
        if matches!(i.code, JUMP_IF_NOT_IMMEDIATE | JUMP_IF_IMMEDIATE | JUMP_IF_NOT_REGISTER) {
            i.offset = i16::try_from(end - at - 1).map_err(io::Error::other)?;
        }
    }
    Ok(block)
}

/// `BPF_DEVCG_ACC_*`.
fn access_bits(access: DeviceAccess) -> i32 {
    i32::from(access.mknod) | i32::from(access.read) << 1 | i32::from(access.write) << 2
}

fn answer(allow: bool) -> [Instruction; 2] {
    [instruction(MOVE_IMMEDIATE, ANSWER, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}
