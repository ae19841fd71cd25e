//! A registry that says what a test wants it to.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

/// What is said to a request for a path.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The content type.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
    /// A length other than the body's.
    pub length: Option<usize>,
}

impl Answer {
    /// An answer of 200.
    #[must_use]
    pub fn ok(kind: &str, body: &[u8]) -> Self {
        Self { status: 200, kind: kind.to_owned(), body: body.to_owned(), length: None }
    }

    /// An empty answer with a status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok("text/plain", b"") }
    }
}

#[derive(Default)]
struct Answers {
    by_path: Mutex<HashMap<String, Answer>>,
    /// How much of a body is said; of 0, nothing at all.
    held: Mutex<HashMap<String, usize>>,
    released: Condvar,
}

/// An HTTP server with fixed answers; it ends with the process.
pub struct Liar {
    address: SocketAddr,
    answers: Arc<Answers>,
}

/// A path that is not answered, or not whole, until this is dropped.
pub struct Held {
    answers: Arc<Answers>,
    path: String,
}

impl Held {
    /// Lets so many bytes of the body through, from its beginning.
    pub fn let_through(&self, bytes: usize) {
        let mut held = self.answers.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(self.path.clone(), bytes);
        self.answers.released.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.answers.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.path);
        self.answers.released.notify_all();
    }
}

impl Liar {
    /// Starts to listen. Every path is 404 at first, but for `/v2/`.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a port")?;
        let address = listener.local_addr().context("failed to find a port")?;
        let answers = Arc::<Answers>::default();
        let shared = Arc::clone(&answers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answers = Arc::clone(&shared);
                thread::spawn(move || {
                    let _ = serve(&stream, &answers);
                });
            }
        });
        let liar = Self { address, answers };
        liar.say("/v2/", Answer::ok("application/json", b"{}"));
        Ok(liar)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the answer for a path.
    pub fn say(&self, path: &str, answer: Answer) {
        let mut answers = self.answers.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(path.to_owned(), answer);
    }

    /// Holds the answer for a path back.
    #[must_use]
    pub fn hold(&self, path: &str) -> Held {
        let mut held = self.answers.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(path.to_owned(), 0);
        Held { answers: Arc::clone(&self.answers), path: path.to_owned() }
    }
}

impl Answers {
    /// Waits until more may be said of a path than was; returns how much that is.
    fn wait(&self, path: &str, said: usize) -> usize {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_all = |held: &mut HashMap<String, usize>| held.get(path).is_some_and(|m| *m <= said);
        let held = self.released.wait_while(held, is_all).unwrap_or_else(PoisonError::into_inner);
        held.get(path).copied().unwrap_or(usize::MAX)
    }

    fn of(&self, path: &str) -> Answer {
        self.wait(path, 0);
        let answers = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(path).cloned().unwrap_or_else(|| Answer::status(404))
    }
}

fn serve(stream: &TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let answer = answers.of(path);
    let mut stream = stream;
    let length = answer.length.unwrap_or(answer.body.len());
    write!(
        stream,
        "HTTP/1.1 {} -\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n",
        answer.status, answer.kind
    )?;
    let mut rest = if method == "HEAD" { &[] } else { &answer.body[..] };
    while !rest.is_empty() {
        let said = answer.body.len() - rest.len();
        let now = rest.len().min(answers.wait(path, said) - said);
        let (part, left) = rest.split_at(now);
        stream.write_all(part)?;
        rest = left;
    }
    stream.flush()
}
