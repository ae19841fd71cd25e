//! The Huffman code of HPACK (RFC 7541, section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive in the order of
//! their symbols, so the lengths alone give the whole table.

use crate::hpack::HpackError;

/// The symbol that ends a stream of codes; it must not stand in a string.
const EOS: u16 = 256;
const SYMBOLS: usize = 257;
const LONGEST: usize = 30;

/// The length in bits of the code of each octet, then of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of each length, and the symbols in the order of their codes.
struct Table {
    first_code: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    offset: [usize; LONGEST + 1],
    symbols: [u16; SYMBOLS],
}

static TABLE: Table = Table::new();

impl Table {
    const fn new() -> Self {
        let mut table = Self {
            first_code: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            offset: [0; LONGEST + 1],
            symbols: [0; SYMBOLS],
        };
        let mut code = 0;
        let mut placed = 0;
        let mut length = 1;
        while length <= LONGEST {
            code <<= 1;
            table.first_code[length] = code;
            table.offset[length] = placed;
            let mut symbol: u16 = 0;
            while symbol <= EOS {
                if LENGTHS[symbol as usize] as usize == length {
                    table.symbols[placed] = symbol;
                    placed += 1;
                    code += 1;
                    table.count[length] += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        table
    }
}

/// Decodes a string; it gets no longer than `limit`.
///
/// # Errors
/// If it holds EOS, an incomplete code, padding that is not the start of EOS,
/// or is too long.
pub fn decode(input: &[u8], limit: usize) -> Result<Vec<u8>, HpackError> {
    let mut output = Vec::with_capacity((input.len() * 8 / 5).min(limit));
    let mut code: u32 = 0;
    let mut length = 0;
    for octet in input {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(octet >> bit & 1);
            length += 1;
            if let Some(symbol) = symbol(code, length)? {
                if output.len() == limit {
                    return Err(HpackError::TooLarge);
                }
                output.push(symbol);
                (code, length) = (0, 0);
            }
        }
    }
    // Padding is fewer than 8 bits and all ones, the start of EOS's code.
    if length > 7 || code != (1 << length) - 1 {
        return Err(HpackError::Huffman);
    }
    Ok(output)
}

fn symbol(code: u32, length: usize) -> Result<Option<u8>, HpackError> {
    let at = match code.checked_sub(TABLE.first_code[length]) {
        Some(at) if at < TABLE.count[length] => at as usize,
        _ if length < LONGEST => return Ok(None),
        _ => return Err(HpackError::Huffman),
    };
    let symbol = TABLE.symbols[TABLE.offset[length] + at];
    u8::try_from(symbol).map(Some).map_err(|_| HpackError::Huffman)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes by the same lengths but the other way round: from symbol to code.
    fn encode(input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        let (mut bits, mut held) = (0u64, 0u32);
        for octet in input {
            let (code, length) = code_of(u16::from(*octet));
            bits = bits << length | u64::from(code);
            held += length;
            while held >= 8 {
                held -= 8;
                output.push((bits >> held & 0xff) as u8);
            }
        }
        if held > 0 {
            output.push(((bits << (8 - held) | ((1 << (8 - held)) - 1)) & 0xff) as u8);
        }
        output
    }

    fn code_of(symbol: u16) -> (u32, u32) {
        let length = usize::from(LENGTHS[usize::from(symbol)]);
        let at = TABLE.symbols[TABLE.offset[length]..].iter().position(|s| *s == symbol);
        let at = u32::try_from(at.expect("every symbol is in the table")).expect("a small number");
        (TABLE.first_code[length] + at, u32::try_from(length).expect("a small number"))
    }

    #[test]
    fn codes_of_the_specification() {
        for (symbol, code, length) in [
            (u16::from(b'0'), 0x0, 5),
            (u16::from(b'a'), 0x3, 5),
            (u16::from(b'~'), 0x1ffd, 13),
            (0, 0x1ff8, 13),
            (10, 0x3fff_fffc, 30),
            (249, 0xfff_fffe, 28),
            (255, 0x3ff_ffee, 26),
            (EOS, 0x3fff_ffff, 30),
        ] {
            assert_eq!(code_of(symbol), (code, length), "symbol {symbol}");
        }
    }

    #[test]
    fn refuses_what_the_specification_forbids() {
        for (bytes, why) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "EOS"),
            (&[0xff][..], "a whole octet of padding"),
            (&[0b0001_1000][..], "padding of zeros"),
            (&[0xff, 0xff, 0xff][..], "an incomplete code"),
        ] {
            assert!(decode(bytes, 100).is_err(), "{why}");
        }
        assert!(matches!(decode(&[0; 10], 15), Err(HpackError::TooLarge)));
        assert_eq!(decode(&[0; 10], 16).expect("16 zeros"), [b'0'; 16]);
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes), bytes.len()).expect("valid"), bytes);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes, 64);
        }
    }
}
