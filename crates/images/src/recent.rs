//! Small documents that came a moment ago, for pulls that run at the same time.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use types::Digest;

/// How many bytes are held.
const MAX_BYTES: usize = 4 << 20;
/// How many documents are held.
const MAX_DOCUMENTS: usize = 64;

/// The documents, the oldest first. They were verified.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<(Digest, Bytes)>>);

impl Recent {
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().iter().find(|(known, _)| known == digest).map(|(_, bytes)| bytes.clone())
    }

    pub fn put(&self, digest: Digest, bytes: Bytes) {
        let mut documents = self.0.lock();
        documents.retain(|(known, _)| *known != digest);
        documents.push_back((digest, bytes));
        let held = |documents: &VecDeque<(Digest, Bytes)>| {
            documents.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
        };
        while documents.len() > MAX_DOCUMENTS || held(&documents) > MAX_BYTES {
            documents.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_held() {
        let digest = |n: u8| Digest::from_bytes([n; 32]);
        let recent = Recent::default();
        for n in 0..70 {
            recent.put(digest(n), Bytes::from_static(b"x"));
        }
        assert!(recent.get(&digest(5)).is_none() && recent.get(&digest(6)).is_some());
        recent.put(digest(100), vec![0; MAX_BYTES].into());
        assert!(recent.get(&digest(69)).is_none() && recent.get(&digest(100)).is_some());
        recent.put(digest(101), vec![0; MAX_BYTES + 1].into());
        assert!(recent.get(&digest(101)).is_none());
    }
}
