//! One header block, and the numbers and texts in it.

/// The size of a block.
pub(super) const BLOCK: usize = 512;

/// Where a field is in the block.
type Field = std::ops::Range<usize>;

const NAME: Field = 0..100;
const MODE: Field = 100..108;
const UID: Field = 108..116;
const GID: Field = 116..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const TYPE: usize = 156;
const LINK: Field = 157..257;
const MAGIC: Field = 257..265;
const MAJOR: Field = 329..337;
const MINOR: Field = 337..345;
const PREFIX: Field = 345..500;
/// star keeps times behind a shorter prefix, and says so at the end of the block.
const STAR_PREFIX: Field = 345..476;
const STAR_TRAILER: Field = 508..512;

/// Who wrote a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
    pub(super) format: Format,
}

impl Header {
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, &'static str> {
        let stated = number(&block[CHECKSUM])?;
        let blank = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { *byte };
        let unsigned: i64 = block.iter().enumerate().map(|b| i64::from(blank(b))).sum();
        // Some old programs added signed bytes.
        let signed: i64 = block.iter().enumerate().map(|b| i64::from(blank(b).cast_signed())).sum();
        if stated != unsigned && stated != signed {
            return Err("the header's checksum is wrong");
        }
        let format = match &block[MAGIC] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") => match &block[STAR_TRAILER] {
                b"tar\0" => Format::Star,
                _ => Format::Ustar,
            },
            _ => Format::V7,
        };
        Ok(Self { block, format })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[TYPE]
    }

    /// Returns the name, with its prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let prefix = match self.format {
            Format::Ustar => text(&self.block[PREFIX]),
            Format::Star => text(&self.block[STAR_PREFIX]),
            Format::V7 | Format::Gnu => b"",
        };
        let name = text(&self.block[NAME]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[LINK]).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, &'static str> {
        number(&self.block[SIZE])?.try_into().map_err(|_| "its size is negative")
    }

    pub(super) fn mode(&self) -> Result<u32, &'static str> {
        // The file type is in the type flag; some programs repeat it here.
        u32::try_from(number(&self.block[MODE])? & 0o7777).map_err(|_| "its mode is negative")
    }

    pub(super) fn uid(&self) -> Result<u32, &'static str> {
        number(&self.block[UID])?.try_into().map_err(|_| "its owner is no user id")
    }

    pub(super) fn gid(&self) -> Result<u32, &'static str> {
        number(&self.block[GID])?.try_into().map_err(|_| "its group is no group id")
    }

    pub(super) fn mtime(&self) -> Result<i64, &'static str> {
        number(&self.block[MTIME])
    }

    /// Returns the device's major and minor numbers.
    pub(super) fn device(&self) -> Result<(u32, u32), &'static str> {
        let part = |field: Field| {
            u32::try_from(number(&self.block[field])?).map_err(|_| "its device number is too large")
        };
        match self.format {
            Format::V7 => Err("a device needs a newer header"),
            _ => Ok((part(MAJOR)?, part(MINOR)?)),
        }
    }

    pub(super) fn bytes(&self, field: Field) -> &[u8] {
        &self.block[field]
    }
}

/// Returns the bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Reads a numeric field: octal, or binary where its first bit is set.
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => binary(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Result<i64, &'static str> {
    const BAD: &str = "a number in its header is not octal";
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|b| *b == b' ')
        .take_while(|b| !matches!(b, b' ' | 0))
        .collect();
    let begin = field.iter().take_while(|b| **b == b' ').count();
    if field[begin + digits.len()..].iter().any(|b| !matches!(b, b' ' | 0)) {
        return Err(BAD);
    }
    digits.iter().try_fold(0_i64, |sum, digit| match digit {
        b'0'..=b'7' => {
            sum.checked_mul(8).and_then(|s| s.checked_add(i64::from(digit - b'0'))).ok_or(BAD)
        }
        _ => Err(BAD),
    })
}

fn binary(field: &[u8]) -> Result<i64, &'static str> {
    const BAD: &str = "a number in its header is too large";
    // Two's complement of all bits but the first, which only marks the form.
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let bits = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256).ok_or(BAD)? | i128::from(bits);
    }
    i64::try_from(value).map_err(|_| BAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0\0\0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"00000008", None),
            (b"0644\x00777", None),
            (b"-0000644", None),
            (b"77777777777777777777777", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field).ok(), value, "{field:?}");
        }
    }
}
