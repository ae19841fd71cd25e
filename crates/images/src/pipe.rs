//! Bytes from one thread to another, so that a layer is inflated while what came before
//! is unpacked.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

/// The bytes of a piece: few wake-ups, and both caches hold it.
const PIECE: usize = 256 << 10;
/// How many pieces lie between the two.
const PIECES: usize = 4;

/// Reads `source` in a thread of its own, as far as `work` reads what it is given.
///
/// Returns what `work` does; `source` is read no further then.
pub(crate) fn read_ahead<R: Read + Send, T>(source: R, work: impl FnOnce(&mut Ahead) -> T) -> T {
    let (sender, receiver) = sync_channel(PIECES);
    let (back, empty) = sync_channel(PIECES + 2);
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, move || feed(source, &sender, &empty));
        // Without a thread the stream breaks at once.
        let error = reading.err();
        let mut ahead = Ahead { receiver, back, piece: Vec::new(), at: 0, error };
        let result = work(&mut ahead);
        // The feeding thread ends with its next piece.
        drop(ahead);
        result
    })
}

type Piece = io::Result<Vec<u8>>;

fn feed(mut source: impl Read, sender: &SyncSender<Piece>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let (read, error) = fill(&mut source, &mut piece);
        piece.truncate(read);
        let ended = read == 0 && error.is_none();
        if (read > 0 && sender.send(Ok(piece)).is_err()) || ended {
            return;
        }
        if let Some(error) = error {
            let _nobody_reads = sender.send(Err(error));
            return;
        }
    }
}

fn fill(source: &mut impl Read, piece: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut read = 0;
    // What is there is handed on before the rest is waited for.
    while read < piece.len() / 2 {
        match source.read(&mut piece[read..]) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (read, Some(error)),
        }
    }
    (read, None)
}

/// What the other thread has read.
pub(crate) struct Ahead {
    receiver: Receiver<Piece>,
    back: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    error: Option<io::Error>,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.at == self.piece.len() {
            let Ok(next) = self.receiver.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.piece, next?);
            self.at = 0;
            let _not_needed = self.back.try_send(used);
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_and_the_error_after_them_arrive() {
        let bytes: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let read = read_ahead(bytes.as_slice(), |ahead| {
            let mut all = Vec::new();
            ahead.read_to_end(&mut all).map(|_| all)
        });
        assert!(read.unwrap() == bytes);
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let mut all = Vec::new();
        let source = bytes.as_slice().chain(Broken);
        let error = read_ahead(source, |ahead| ahead.read_to_end(&mut all)).unwrap_err();
        assert_eq!(error.to_string(), "broken");
        assert!(all == bytes);
    }

    #[test]
    fn a_reader_that_stops_stops_the_other_thread() {
        let first = read_ahead(io::repeat(7), |ahead| {
            let mut byte = [0];
            ahead.read_exact(&mut byte).map(|()| byte[0])
        });
        assert_eq!(first.unwrap(), 7);
    }
}
