//! Finding a file's last lines from its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// How much is read at once.
const BLOCK_BYTES: u64 = 64 * 1024;

/// Where the last `lines` lines of the file begin. A last line without a newline
/// counts.
pub fn start(file: &mut File, lines: u64) -> io::Result<u64> {
    let len = file.metadata()?.len();
    if lines == 0 {
        return Ok(len);
    }
    let mut block = Vec::new();
    let (mut end, mut found) = (len, 0);
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        block.resize(usize::try_from(end - begin).unwrap_or_default(), 0);
        file.read_exact_at(&mut block, begin)?;
        for (at, byte) in (begin..end).rev().zip(block.iter().rev()) {
            // The newline at the very end ends the last line, it begins none.
            if *byte == b'\n' && at + 1 != len {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_last_lines_begin_where_they_should() {
        let block = usize::try_from(BLOCK_BYTES).expect("small");
        let long = "x".repeat(block - 1) + "\n";
        let cases = [
            (String::new(), 3, 0),
            ("a\nb\nc\n".to_owned(), 0, 6),
            ("a\nb\nc\n".to_owned(), 1, 4),
            ("a\nb\nc\n".to_owned(), 2, 2),
            ("a\nb\nc\n".to_owned(), 3, 0),
            ("a\nb\nc\n".to_owned(), 9, 0),
            ("a\nb\nc".to_owned(), 1, 4),
            ("\n\n\n".to_owned(), 2, 1),
            (long.clone() + &long + "end\n", 1, 2 * BLOCK_BYTES),
            (long.clone() + &long + "end\n", 2, BLOCK_BYTES),
            (long.clone() + &long + "end\n", 3, 0),
        ];
        for (text, lines, expected) in cases {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).expect("written");
            assert_eq!(
                start(&mut file, lines).expect("found"),
                expected,
                "{lines} of {}",
                text.len()
            );
        }
    }
}
