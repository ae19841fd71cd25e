//! The reader of containerd's database, fuzzed. See `testing::fuzz`.

use testing::fuzz::fuzz;

use super::*;

/// Whatever a database is, it is answered, and soon.
#[test]
fn databases_of_containerd() {
    fuzz("bolt", &[tests::small()], |bytes| {
        if let Ok(database) = Database::of(bytes.to_vec()) {
            for path in [&[][..], &["b"], &["b", "k"]] {
                let _ = database.bucket(path).map(|found| found.map(|b| b.entries()));
            }
        }
    });
}
