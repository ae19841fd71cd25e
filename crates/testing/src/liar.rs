//! A registry that says what a test wants it to.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
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

type Answers = Arc<Mutex<HashMap<String, Answer>>>;

/// An HTTP server with fixed answers; it ends with the process.
pub struct Liar {
    address: SocketAddr,
    answers: Answers,
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
        let answers = Answers::default();
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
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(path.to_owned(), answer);
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
    let answer = {
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(path).cloned().unwrap_or_else(|| Answer::status(404))
    };
    let mut stream = stream;
    let length = answer.length.unwrap_or(answer.body.len());
    write!(
        stream,
        "HTTP/1.1 {} -\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n",
        answer.status, answer.kind
    )?;
    if method != "HEAD" {
        stream.write_all(&answer.body)?;
    }
    stream.flush()
}
