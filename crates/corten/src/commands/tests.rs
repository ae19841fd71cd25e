//! Commands against a server, down to what they print.

mod changes;
mod lists;
mod status;
