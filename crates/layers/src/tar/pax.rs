//! Extended headers (POSIX pax), strictly.

use super::archive::Mtime;

/// What an extended header says about the next entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<PaxSparse>,
}

/// The records of GNU's sparse forms 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths in turn.
    pub(super) map: Vec<u64>,
}

/// Where the records of an entry stop to be plausible.
pub(super) struct PaxLimits {
    pub(super) max_xattrs: usize,
    pub(super) max_xattr_value: usize,
    pub(super) max_segments: usize,
}

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

impl Pax {
    /// Reads the header of the next entry.
    pub(super) fn parse(data: &[u8], limits: &PaxLimits) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        each_record(data, |key, value| pax.record(key, value, limits))?;
        Ok(pax)
    }

    fn record(&mut self, key: &[u8], value: &[u8], limits: &PaxLimits) -> Result<(), &'static str> {
        if let Some(name) = key.strip_prefix(XATTR) {
            return self.xattr(name, value, limits);
        }
        if let Some(rest) = key.strip_prefix(SPARSE) {
            return self.sparse.get_or_insert_default().record(rest, value, limits.max_segments);
        }
        if value.is_empty() {
            // "Shall delete any header block value": the entry's own header counts.
            return Ok(());
        }
        match key {
            b"path" => once(&mut self.path, name(value)?),
            b"linkpath" => once(&mut self.link, name(value)?),
            b"size" => once(&mut self.size, decimal(value)?),
            b"uid" => once(&mut self.uid, id(value)?),
            b"gid" => once(&mut self.gid, id(value)?),
            b"mtime" => once(&mut self.mtime, time(value)?),
            _ => Ok(()),
        }
    }

    fn xattr(&mut self, name: &[u8], value: &[u8], limits: &PaxLimits) -> Result<(), &'static str> {
        if name.is_empty() || name.contains(&0) || name.len() > 255 {
            return Err("it has an extended attribute with a bad name");
        }
        if value.len() > limits.max_xattr_value {
            return Err("it has an extended attribute that is too long");
        }
        if self.xattrs.len() == limits.max_xattrs {
            return Err("it has too many extended attributes");
        }
        if self.xattrs.iter().any(|(known, _)| known == name) {
            return Err(DOUBLED);
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl PaxSparse {
    fn record(
        &mut self,
        key: &[u8],
        value: &[u8],
        max_segments: usize,
    ) -> Result<(), &'static str> {
        let room = max_segments.saturating_mul(2);
        match key {
            b"major" => once(&mut self.major, decimal(value)?),
            b"minor" => once(&mut self.minor, decimal(value)?),
            b"name" => once(&mut self.name, name(value)?),
            b"realsize" | b"size" => once(&mut self.real_size, decimal(value)?),
            b"map" if self.map.is_empty() => {
                for part in value.split(|b| *b == b',') {
                    push(&mut self.map, decimal(part)?, room)?;
                }
                Ok(())
            }
            // They come in pairs, and the map checks that.
            b"offset" if self.map.len().is_multiple_of(2) => {
                push(&mut self.map, decimal(value)?, room)
            }
            b"numbytes" if !self.map.len().is_multiple_of(2) => {
                push(&mut self.map, decimal(value)?, room)
            }
            b"numblocks" => Ok(()),
            _ => Err("its sparse records are not understood"),
        }
    }
}

/// Checks a global header: what it sets would hold for all entries that follow, and
/// only some programs do that. Comments and the like are fine.
pub(super) fn check_global(data: &[u8]) -> Result<(), &'static str> {
    each_record(data, |key, _| {
        let changes = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid")
            || key.starts_with(XATTR)
            || key.starts_with(SPARSE);
        if changes { Err("a global extended header changes entries") } else { Ok(()) }
    })
}

const DOUBLED: &str = "its extended header says something twice";
const DAMAGED: &str = "its extended header is damaged";

/// Calls `f` with the key and the value of each record, `<length> <key>=<value>\n`.
fn each_record(
    mut data: &[u8],
    mut f: impl FnMut(&[u8], &[u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    while !data.is_empty() {
        let space = data.iter().take(21).position(|b| *b == b' ').ok_or(DAMAGED)?;
        let length = usize::try_from(decimal(&data[..space])?).map_err(|_| DAMAGED)?;
        if length > data.len() || length < space + 3 {
            return Err(DAMAGED);
        }
        let (record, rest) = data.split_at(length);
        let body = record[space + 1..].strip_suffix(b"\n").ok_or(DAMAGED)?;
        let equals = body.iter().position(|b| *b == b'=').ok_or(DAMAGED)?;
        let (key, value) = (&body[..equals], &body[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(DAMAGED);
        }
        f(key, value)?;
        data = rest;
    }
    Ok(())
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DOUBLED),
    }
}

fn push(map: &mut Vec<u64>, value: u64, room: usize) -> Result<(), &'static str> {
    if map.len() >= room {
        return Err("its sparse map is too long");
    }
    map.push(value);
    Ok(())
}

fn name(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    if value.contains(&0) {
        return Err("its extended header has a name with a NUL byte");
    }
    Ok(value.to_vec())
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "a number in its extended header is bad";
    if text.is_empty() {
        return Err(BAD);
    }
    text.iter().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'9' => {
            sum.checked_mul(10).and_then(|s| s.checked_add(u64::from(digit - b'0'))).ok_or(BAD)
        }
        _ => Err(BAD),
    })
}

fn id(text: &[u8]) -> Result<u32, &'static str> {
    u32::try_from(decimal(text)?).map_err(|_| "its owner is no user or group id")
}

/// Reads seconds with a fraction, which may be negative.
fn time(text: &[u8]) -> Result<Mtime, &'static str> {
    const BAD: &str = "the time in its extended header is bad";
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = decimal(parts.next().unwrap_or_default()).map_err(|_| BAD)?;
    let mut seconds = i64::try_from(whole).map_err(|_| BAD)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let mut nanoseconds = (0..9)
        .fold(0, |sum, at| sum * 10 + i64::from(fraction.get(at).map_or(0, |digit| digit - b'0')));
    if negative {
        seconds = -seconds;
        if nanoseconds > 0 {
            (seconds, nanoseconds) = (seconds - 1, 1_000_000_000 - nanoseconds);
        }
    }
    Ok(Mtime { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaxLimits = PaxLimits { max_xattrs: 2, max_xattr_value: 8, max_segments: 2 };

    fn parse(text: &str) -> Result<Pax, &'static str> {
        Pax::parse(text.as_bytes(), &LIMITS)
    }

    #[test]
    fn records_are_read() {
        let pax = parse("10 path=a\n12 size=123\n18 uid=4294967295\n").unwrap_or_default();
        assert_eq!(pax.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(pax.size, Some(123));
    }

    #[test]
    fn damaged_records_are_refused() {
        for bad in [
            "x",
            "5 a=b",
            "6 a=b",
            "7 a=b\n",
            "6 =bb\n",
            "6 abc\n",
            "06 path=a\n",
            "-6 a=b\n",
            "18446744073709551617 a=b\n",
            "10 path=\0\n",
            "10 size=x\n",
            "11 size=-1\n",
            "10 path=a\n10 path=b\n",
            "21 SCHILY.xattr.a=bb\n21 SCHILY.xattr.a=bb\n",
            "30 SCHILY.xattr.a=01234567890\n",
            "19 SCHILY.xattr.=a\n",
            "22 GNU.sparse.what=12\n",
            "25 GNU.sparse.numbytes=1\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        for (text, seconds, nanoseconds) in [
            ("1.5", 1, 500_000_000),
            ("12", 12, 0),
            ("-1.25", -2, 750_000_000),
            ("-1", -1, 0),
            ("1.0000000019", 1, 1),
        ] {
            assert_eq!(time(text.as_bytes()), Ok(Mtime { seconds, nanoseconds }), "{text}");
        }
        for bad in ["", "-", ".5", "1.x", "1e9", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_global_header_changes_nothing() {
        assert!(check_global(b"13 comment=a\n").is_ok());
        assert!(check_global(b"10 path=a\n").is_err());
        assert!(check_global(b"10 size=1\n").is_err());
    }
}
