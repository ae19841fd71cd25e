//! The reader of logs, fuzzed. See `testing::fuzz`.

use std::fs;

use testing::fuzz::fuzz;

use super::*;
use crate::output::Output;

/// Whatever a log is, it is shown, and nothing is shown that is not in it.
#[test]
fn logs_of_others() {
    let seeds = [
        b"2026-01-01T00:00:01.000000000Z stdout F one\n2026-01-01T00:00:02Z stderr P two\n"
            .to_vec(),
        b"2026-01-01T00:00:03+02:00 stdout P:x thr\n2026-01-01T00:00:03Z stdout F\n".to_vec(),
        b"not a line\n\n\xff\xfe stdout F x\n2026-01-01T00:00:04Z stdout F without an end".to_vec(),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    let filters = [
        Filter::default(),
        Filter {
            since: "2026-01-01T00:00:02Z".parse().ok(),
            limit_bytes: Some(9),
            ..Filter::default()
        },
    ];
    fuzz("logs", &seeds, |bytes| {
        fs::write(&path, bytes).expect("written");
        for (filter, tail) in filters.iter().zip([None, Some(2)]) {
            let limit = filter
                .limit_bytes
                .map_or(bytes.len(), |limit| usize::try_from(limit).unwrap_or(usize::MAX));
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut output = Output::new(&mut out, &mut err);
            let mut sink = Sink::new(&mut output, filter.clone());
            let mut source = Source::open(&path, tail).expect("open");
            source.drain(&mut sink).expect("drain");
            source.end(&mut sink).expect("end");
            sink.flush().expect("flush");
            assert!(out.len() + err.len() <= limit.max(bytes.len()));
        }
    });
}
