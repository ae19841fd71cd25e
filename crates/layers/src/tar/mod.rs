//! A strict reader of tar streams: V7, ustar, pax and GNU, with the sparse forms of
//! both.
//!
//! Programs differ in how they read contradicting headers, and whoever checks a
//! layer may see other files in it than whoever runs it (CVE-2025-62518). So this
//! reader takes what GNU tar and Go's archive/tar read alike, and refuses the rest:
//! a damaged or doubled extended header, two different long names, a global header
//! that changes entries, a size where there can be no data is no data.

mod archive;
mod header;
mod pax;
mod sparse;
mod stream;

pub(crate) use archive::{Archive, Entry, Kind, Mtime};
