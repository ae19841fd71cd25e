//! Whole logs, and logs that change while they are read.

use std::cell::{Cell, RefCell};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::output::Output;

const LOG: &str = "\
2026-01-01T00:00:01.000000000Z stdout F one
2026-01-01T00:00:02.000000000Z stderr F two
not a line
2026-01-01T00:00:03.000000000Z stdout P thr
2026-01-01T00:00:03.500000000Z stdout F ee
2026-01-01T00:00:04.000000000Z stdout F four";

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place(text: &str) -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("0.log");
    fs::write(&path, text).expect("written");
    Place { _dir: dir, path }
}

/// Shows a whole log: what goes to standard output and to standard error.
fn show(path: &Path, tail: Option<u64>, filter: Filter) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output::new(&mut out, &mut err);
    let mut sink = Sink::new(&mut output, filter);
    let mut source = Source::open(path, tail).expect("open");
    source.drain(&mut sink).expect("drain");
    source.end(&mut sink).expect("end");
    sink.finish().expect("finish");
    (String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

const ODD: &str = "corten: warning: left out 1 lines that are not in the log format\n";

#[test]
fn streams_parts_and_odd_lines() {
    let place = place(LOG);
    let (out, err) = show(&place.path, None, Filter::default());
    assert_eq!(out, "one\nthree\nfour\n");
    assert_eq!(err, format!("two\n{ODD}"));
}

#[test]
fn filters() {
    let place = place(LOG);
    let since = |text: &str| Some(text.parse().expect("a time"));
    let cases = [
        (Filter { since: since("2026-01-01T00:00:04Z"), ..Filter::default() }, None, "four\n"),
        (Filter { limit_bytes: Some(6), ..Filter::default() }, None, "one\n"),
        (
            Filter { limit_bytes: Some(6), stream: Some(Stream::Stdout), ..Filter::default() },
            None,
            "one\nth",
        ),
        (Filter::default(), Some(1), "four\n"),
        (Filter::default(), Some(3), "three\nfour\n"),
        (Filter::default(), Some(0), ""),
        (Filter { stream: Some(Stream::Stderr), ..Filter::default() }, None, ""),
        (
            Filter { timestamps: true, ..Filter::default() },
            Some(3),
            "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z four\n",
        ),
    ];
    for (filter, tail, expected) in cases {
        assert_eq!(show(&place.path, tail, filter.clone()).0, expected, "{filter:?} {tail:?}");
    }
}

#[test]
fn a_line_without_an_end_is_left_out() {
    let long = "x".repeat(3 * 1024 * 1024);
    let place = place(&format!("{long}\n2026-01-01T00:00:04Z stdout F next\n"));
    let (out, err) = show(&place.path, None, Filter::default());
    assert_eq!(out, "next\n");
    assert_eq!(err, ODD);
}

/// A container that does one thing more each time its state is asked for, and is
/// dead when nothing is left to do.
struct Script<F: Fn(usize) -> bool> {
    step: Cell<usize>,
    act: F,
}

impl<F: Fn(usize) -> bool> Alive for Script<F> {
    async fn alive(&self) -> anyhow::Result<bool> {
        let step = self.step.get();
        self.step.set(step + 1);
        Ok((self.act)(step))
    }
}

fn append(mut file: &File, n: u32) {
    writeln!(file, "2026-01-01T00:00:05Z stdout F line {n}").expect("written");
}

async fn follow_script(path: &Path, tail: Option<u64>, act: impl Fn(usize) -> bool) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut output = Output::new(&mut out, &mut err);
    let mut sink = Sink::new(&mut output, Filter::default());
    let source = Source::open(path, tail).expect("open");
    let script = Script { step: Cell::new(0), act };
    follow(source, &mut sink, &script, std::time::Duration::from_millis(20))
        .await
        .expect("followed");
    String::from_utf8(out).expect("text")
}

#[tokio::test]
async fn following_shows_what_is_added_and_ends_with_the_container() {
    let place = place("2026-01-01T00:00:05Z stdout F old\n2026-01-01T00:00:05Z stdout F last\n");
    let file = OpenOptions::new().append(true).open(&place.path).expect("open");
    let text = follow_script(&place.path, Some(1), |step| {
        append(&file, u32::try_from(step).expect("small"));
        // The last words come with the news of its death, without a newline.
        if step == 2 {
            write!(&file, "2026-01-01T00:00:05Z stdout P bye").expect("written");
        }
        step < 2
    })
    .await;
    assert_eq!(text, "last\nline 0\nline 1\nline 2\nbye");
}

#[tokio::test]
async fn following_goes_over_to_the_file_in_its_place() {
    let place = place("");
    let renamed = place.path.with_extension("log.1");
    let old = OpenOptions::new().append(true).open(&place.path).expect("open");
    let new = RefCell::new(None);
    let text = follow_script(&place.path, None, |step| {
        match step {
            0 => append(&old, 0),
            1 => fs::rename(&place.path, &renamed).expect("renamed"),
            // Renamed, but still written to.
            2 => append(&old, 1),
            3 => *new.borrow_mut() = Some(File::create(&place.path).expect("created")),
            // The new one is there, the old one is still written to.
            4 => append(&old, 2),
            _ => {
                append(&old, 3);
                append(new.borrow().as_ref().expect("made"), 4);
            }
        }
        step < 5
    })
    .await;
    assert_eq!(text, "line 0\nline 1\nline 2\nline 3\nline 4\n");
}

#[tokio::test]
async fn a_file_that_is_cut_is_shown_from_its_beginning() {
    let place = place("2026-01-01T00:00:05Z stdout F before it was cut\n");
    let file = OpenOptions::new().append(true).open(&place.path).expect("open");
    let text = follow_script(&place.path, None, |step| {
        file.set_len(0).expect("cut");
        append(&file, 1);
        step > 0
    })
    .await;
    assert_eq!(text, "before it was cut\nline 1\n");
}
