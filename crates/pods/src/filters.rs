//! Compiled seccomp filters: a profile is compiled once, and each container that has it gets
//! the filter with its bundle. The same is then loaded for its commands.

use std::{collections::HashMap, sync::Arc};

use oci_spec::runtime::LinuxSeccomp;
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// How many filters are kept. A node has a handful of profiles; the default one is another
/// for each set of capabilities.
const MAX_FILTERS: usize = 64;

/// The filters that were compiled, by their profiles' text.
#[derive(Default)]
pub(crate) struct Filters {
    known: Mutex<HashMap<Vec<u8>, Arc<[u8]>>>,
}

impl Filters {
    /// The filter of a profile, as [`seccomp::Program::to_bytes`] has it.
    ///
    /// # Errors
    /// The profile asks for what a filter cannot do.
    pub(crate) fn get(&self, profile: &LinuxSeccomp) -> Result<Arc<[u8]>> {
        let wrong = |why: String| Error::Invalid(format!("the seccomp profile: {why}"));
        let text = serde_json::to_vec(profile).map_err(|error| wrong(error.to_string()))?;
        if let Some(filter) = self.known.lock().get(&text) {
            return Ok(filter.clone());
        }
        let program = seccomp::compile(profile).map_err(|e| wrong(telemetry::chain(&e)))?;
        let filter: Arc<[u8]> = program.to_bytes().into();
        let mut known = self.known.lock();
        if known.len() >= MAX_FILTERS {
            known.clear();
        }
        known.insert(text, filter.clone());
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_profile_is_compiled_once() {
        let filters = Filters::default();
        let plain = seccomp::runtime_default(&BTreeSet::new());
        let admin = seccomp::runtime_default(&BTreeSet::from(["CAP_SYS_ADMIN"]));
        let first = filters.get(&plain).unwrap();
        assert!(Arc::ptr_eq(&first, &filters.get(&plain).unwrap()));
        assert!(!Arc::ptr_eq(&first, &filters.get(&admin).unwrap()));
        let program = seccomp::Program::from_bytes(&first).unwrap();
        assert_eq!(program, seccomp::compile(&plain).unwrap());
    }
}
