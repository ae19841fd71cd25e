//! Header compression (RFC 7541): a decoder with the whole state, and an encoder
//! that has none.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::huffman;

/// The dynamic table's size that a peer may use unless it was told another
/// (RFC 9113, section 6.5.2). Our server announces none.
const MAX_TABLE_SIZE: usize = 4096;

/// What an entry counts beyond its octets (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// All fields of one block, counted as the table's entries are. Four times what
/// our server accepts as a header list, so that its answer is the one that the
/// client sees; beyond it a block of table references could grow a thousandfold.
const MAX_LIST_SIZE: usize = 64 * 1024;

/// Why a header block cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum HpackError {
    #[error("the header block ends within a field")]
    Truncated,
    #[error("an integer in the header block is too large")]
    Integer,
    #[error("a string in the header block is not a valid huffman code")]
    Huffman,
    #[error("the header block names entry {0}, which no table has")]
    Index(usize),
    #[error("the header block changes the table's size after a field or over the limit")]
    TableSize,
    #[error("the header block is too large when decoded")]
    TooLarge,
}

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: Text,
    pub value: Text,
}

/// The octets of a name or value, shared with the table.
pub type Text = Arc<[u8]>;

/// Decodes the blocks of one direction of one connection, in their order.
pub struct Decoder {
    entries: VecDeque<Field>,
    size: usize,
    max_size: usize,
}

impl Decoder {
    pub fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, max_size: MAX_TABLE_SIZE }
    }

    /// Decodes a whole block.
    ///
    /// # Errors
    /// If it is malformed or too large; the decoder must not be used after that.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, HpackError> {
        let mut reader = Reader { rest: block };
        let mut fields = Vec::new();
        let mut list_size = 0;
        while let Some(first) = reader.rest.first().copied() {
            // The representations of RFC 7541, section 6.
            let field = if first & 0x80 != 0 {
                self.entry(reader.integer(7)?)?
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut reader, 6)?;
                self.insert(field.clone());
                field
            } else if first & 0x20 != 0 {
                if !fields.is_empty() {
                    return Err(HpackError::TableSize);
                }
                self.resize(reader.integer(5)?)?;
                continue;
            } else {
                self.literal(&mut reader, 4)?
            };
            list_size += field.size();
            if list_size > MAX_LIST_SIZE {
                return Err(HpackError::TooLarge);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, reader: &mut Reader<'_>, prefix: u8) -> Result<Field, HpackError> {
        let name = match reader.integer(prefix)? {
            0 => reader.string()?,
            index => self.entry(index)?.name,
        };
        Ok(Field { name, value: reader.string()? })
    }

    fn entry(&self, index: usize) -> Result<Field, HpackError> {
        let at = index.checked_sub(1).ok_or(HpackError::Index(index))?;
        if let Some((name, value)) = STATIC_TABLE.get(at) {
            return Ok(Field::new(name.as_bytes(), value.as_bytes()));
        }
        self.entries.get(at - STATIC_TABLE.len()).cloned().ok_or(HpackError::Index(index))
    }

    fn insert(&mut self, field: Field) {
        self.size += field.size();
        self.entries.push_front(field);
        self.evict();
    }

    fn resize(&mut self, size: usize) -> Result<(), HpackError> {
        if size > MAX_TABLE_SIZE {
            return Err(HpackError::TableSize);
        }
        self.max_size = size;
        self.evict();
        Ok(())
    }

    /// Drops the oldest entries until the rest fits. An entry larger than the whole
    /// table empties it (RFC 7541, section 4.4).
    fn evict(&mut self) {
        while self.size > self.max_size {
            match self.entries.pop_back() {
                Some(field) => self.size -= field.size(),
                None => self.size = 0,
            }
        }
    }
}

impl Field {
    pub fn new(name: &[u8], value: &[u8]) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Reads an integer whose first octet has `prefix` bits of it (section 5.1).
    fn integer(&mut self, prefix: u8) -> Result<usize, HpackError> {
        let mask = (1usize << prefix) - 1;
        let mut value = usize::from(self.octet()?) & mask;
        if value < mask {
            return Ok(value);
        }
        // Four octets of seven bits reach far beyond any size that is allowed here.
        for shift in [0, 7, 14, 21] {
            let octet = usize::from(self.octet()?);
            value += (octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer)
    }

    fn string(&mut self) -> Result<Text, HpackError> {
        let huffman = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if huffman { Ok(huffman::decode(text, MAX_LIST_SIZE)?.into()) } else { Ok(text.into()) }
    }
}

/// Writes a field as a literal that no table remembers, without compression.
pub fn encode(field: &Field, output: &mut Vec<u8>) {
    output.push(0);
    for text in [&field.name, &field.value] {
        encode_length(text.len(), output);
        output.extend_from_slice(text);
    }
}

fn encode_length(length: usize, output: &mut Vec<u8>) {
    const PREFIX: u8 = 0x7f;
    let low = |value: usize| value.to_le_bytes()[0] & 0x7f;
    match length.checked_sub(usize::from(PREFIX)) {
        None => output.push(low(length)),
        Some(mut rest) => {
            output.push(PREFIX);
            while rest >= 0x80 {
                output.push(low(rest) | 0x80);
                rest >>= 7;
            }
            output.push(low(rest));
        }
    }
}

/// RFC 7541, appendix A.
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let text = String::from_utf8(digits).expect("hexadecimal digits");
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits"))
            .collect()
    }

    fn pairs(fields: &[Field]) -> Vec<(String, String)> {
        let text = |text: &Text| String::from_utf8(text.to_vec()).expect("text");
        fields.iter().map(|field| (text(&field.name), text(&field.value))).collect()
    }

    /// The three requests of RFC 7541, appendix C.3 (plain) and C.4 (Huffman).
    #[test]
    fn decodes_the_examples_of_the_specification() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let huffman = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        let expected: [&[(&str, &str)]; 3] = [
            &[(":method", "GET"), (":scheme", "http"), (":path", "/")],
            &[(":method", "GET"), (":scheme", "http"), (":path", "/")],
            &[(":method", "GET"), (":scheme", "https"), (":path", "/index.html")],
        ];
        let last: [&[(&str, &str)]; 3] =
            [&[], &[("cache-control", "no-cache")], &[("custom-key", "custom-value")]];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new();
            for (at, block) in blocks.iter().enumerate() {
                let fields = pairs(&decoder.decode(&unhex(block)).expect("valid"));
                let mut wanted = expected[at].to_vec();
                wanted.push((":authority", "www.example.com"));
                wanted.extend_from_slice(last[at]);
                let wanted: Vec<_> =
                    wanted.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
                assert_eq!(fields, wanted);
            }
            assert_eq!((decoder.entries.len(), decoder.size), (3, 164), "as the example says");
        }
    }

    #[test]
    fn refuses_malformed_blocks() {
        for (block, why) in [
            ("80", "index 0"),
            ("be", "an index that the empty dynamic table does not have"),
            ("ff80808080", "an integer that never ends"),
            ("ff8080808001", "an integer that is too long"),
            ("4005", "a name that is cut off"),
            ("400161", "no value"),
            ("400161 8a61", "a huffman value that is cut off"),
            ("8220", "a table size after a field"),
            ("3fe21f", "a table size over the limit"),
        ] {
            assert!(Decoder::new().decode(&unhex(block)).is_err(), "{why}");
        }
    }

    #[test]
    fn bounds_what_a_small_block_grows_to() {
        let mut block = Vec::from([0x40, 1, b'a']);
        encode_length(3000, &mut block);
        block.extend_from_slice(&[b'x'; 3000]);
        let mut decoder = Decoder::new();
        assert_eq!(decoder.decode(&block).expect("one entry")[0].value.len(), 3000);
        assert!(matches!(decoder.decode(&[0xbe; 4000]), Err(HpackError::TooLarge)));
    }

    #[test]
    fn keeps_the_table_within_its_size() {
        let mut decoder = Decoder::new();
        for at in 0..200u8 {
            let block = [&[0x40, 1, at, 30][..], &[b'v'; 30]].concat();
            decoder.decode(&block).expect("valid");
            assert!(decoder.size <= MAX_TABLE_SIZE);
        }
        assert_eq!(decoder.entries.len(), MAX_TABLE_SIZE / 63);
        decoder.decode(&[0x20]).expect("a size of zero");
        assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(texts: Vec<(Vec<u8>, Vec<u8>)>) {
            let fields: Vec<_> = texts.iter().map(|(n, v)| Field::new(n, v)).collect();
            let mut block = Vec::new();
            fields.iter().for_each(|field| encode(field, &mut block));
            prop_assert_eq!(Decoder::new().decode(&block).expect("valid"), fields);
        }

        #[test]
        fn lengths_survive(length in 0usize..3_000_000) {
            let mut output = Vec::new();
            encode_length(length, &mut output);
            prop_assert_eq!(Reader { rest: &output }.integer(7).expect("valid"), length);
        }

        #[test]
        fn never_panics_and_stays_bounded(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = decoder.decode(&block);
                prop_assert!(decoder.size <= MAX_TABLE_SIZE);
            }
        }
    }
}
