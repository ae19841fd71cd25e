//! Compiled programs as bytes: what is compiled once is loaded many times.
//!
//! Never kept beyond the machine's running, and read by the same version that wrote it.

use crate::{FLAG_LOG, FLAG_SPEC_ALLOW, FLAG_TSYNC, MAX_INSTRUCTIONS, Program, SockFilter};

/// What the bytes begin with: a name and a version.
const MAGIC: &[u8; 8] = b"cortbpf1";
/// An instruction's bytes: code, two jumps, an operand.
const INSTRUCTION: usize = 8;

impl Program {
    /// The program as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.flags().to_le_bytes());
        for SockFilter { code, jt, jf, k } in self.instructions() {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_le_bytes());
        }
        bytes
    }

    /// The program of bytes; `None` where they are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (flags, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        let flags = u32::from_le_bytes(*flags);
        let known = flags & !(FLAG_LOG | FLAG_SPEC_ALLOW | FLAG_TSYNC) == 0;
        let (chunks, left) = rest.as_chunks::<INSTRUCTION>();
        if !known || !left.is_empty() || chunks.is_empty() || chunks.len() > MAX_INSTRUCTIONS {
            return None;
        }
        let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION]| SockFilter {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        };
        Some(Self::from_parts(chunks.iter().map(instruction).collect(), flags))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_program_comes_back_and_nonsense_does_not() {
        let program = crate::compile(&crate::runtime_default(&BTreeSet::new())).unwrap();
        let bytes = program.to_bytes();
        assert_eq!(Program::from_bytes(&bytes), Some(program));
        for bad in [&bytes[..bytes.len() - 1], &bytes[1..], &bytes[..12], b"", b"cortbpf1"] {
            assert_eq!(Program::from_bytes(bad), None);
        }
        let mut flags = bytes.clone();
        flags[8] = 0xff;
        assert_eq!(Program::from_bytes(&flags), None);
        let long = [&bytes[..12], &vec![0; (MAX_INSTRUCTIONS + 1) * INSTRUCTION]].concat();
        assert_eq!(Program::from_bytes(&long), None);
    }
}
