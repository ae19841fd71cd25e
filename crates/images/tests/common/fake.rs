//! A registry that says what a test wants it to, and remembers what it was asked.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::made::Made;

/// What was asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// After how many bytes of the body the connection is closed.
    pub cut: Option<usize>,
    /// How long each byte takes.
    pub drip: Option<Duration>,
    /// The length is not told: the connection's end is the body's.
    pub untold: bool,
}

impl Reply {
    pub fn ok(kind: &str, body: &[u8]) -> Self {
        Self::status(200).with("Content-Type", kind).body(body)
    }

    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, drip: None, untold: false }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn drip(mut self, each: Duration) -> Self {
        self.drip = Some(each);
        self
    }

    pub fn untold(mut self) -> Self {
        self.untold = true;
        self
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

type Handler = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

#[derive(Default)]
struct Inner {
    blobs: Mutex<HashMap<String, Reply>>,
    asked: Mutex<Vec<Asked>>,
    first: Mutex<Option<Arc<Handler>>>,
}

/// The registry. It ends with the process.
pub struct Fake {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

/// The most requests that were answered at a time.
#[derive(Clone, Default)]
pub struct AtATime(Arc<Mutex<(usize, usize)>>);

/// One that is being answered.
pub struct Entered(AtATime);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().0 -= 1;
    }
}

impl AtATime {
    /// Counts until what is returned is dropped.
    pub fn enter(&self) -> Entered {
        let mut count = self.0.lock().unwrap();
        count.0 += 1;
        count.1 = count.1.max(count.0);
        Entered(self.clone())
    }

    /// Takes a while, and counts those that do.
    pub fn pass(&self, time: Duration) {
        let _entered = self.enter();
        thread::sleep(time);
    }

    pub fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl Fake {
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner::default());
        let shared = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = shared.clone();
                thread::spawn(move || serve(stream, &inner));
            }
        });
        Self { address, inner }
    }

    /// A name of a repository here.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Serves a path.
    pub fn say(&self, path: &str, reply: Reply) {
        self.inner.blobs.lock().unwrap().insert(path.into(), reply);
    }

    /// Serves an image in a repository under a tag and its digest.
    pub fn push(&self, repository: &str, tag: &str, image: &Made) {
        for name in [tag, &image.digest()] {
            self.manifest(repository, name, &image.manifest_kind, &image.manifest);
        }
        for (digest, bytes) in &image.blobs {
            let path = format!("/v2/{repository}/blobs/{digest}");
            self.say(&path, Reply::ok("application/octet-stream", bytes));
        }
    }

    pub fn manifest(&self, repository: &str, name: &str, kind: &str, bytes: &[u8]) {
        self.say(&format!("/v2/{repository}/manifests/{name}"), Reply::ok(kind, bytes));
    }

    /// Is asked before what was said: `None` leaves the answer to that.
    pub fn first(&self, handler: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) {
        *self.inner.first.lock().unwrap() = Some(Arc::new(handler));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().clone()
    }

    /// How often a path with this in it was asked for.
    pub fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

fn serve(stream: TcpStream, inner: &Inner) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(asked) = read(&mut reader) {
        inner.asked.lock().unwrap().push(asked.clone());
        let first = inner.first.lock().unwrap().clone();
        let reply = first.and_then(|handler| handler(&asked));
        let reply = reply.or_else(|| {
            // To a proxy the whole URL is said.
            let path = asked.path.find("/v2/").map_or("", |at| &asked.path[at..]);
            let known = inner.blobs.lock().unwrap().get(path).cloned()?;
            Some(ranged(known, asked.header("range")))
        });
        let reply = reply.unwrap_or_else(|| {
            let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            Reply::status(404).body(body)
        });
        if write(&stream, &reply).is_none() {
            return;
        }
    }
}

/// Answers `bytes=N-` and `bytes=N-M`.
pub fn ranged(mut reply: Reply, range: Option<&str>) -> Reply {
    let range = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = range else { return reply };
    let total = reply.body.len();
    let Ok(start) = start.parse::<usize>() else { return reply };
    let end = end.parse::<usize>().map_or(total, |last| (last + 1).min(total));
    if start < end {
        reply.status = 206;
        reply.body = reply.body[start..end].to_vec();
        let content = format!("bytes {start}-{}/{total}", end - 1);
        reply.headers.push(("Content-Range".into(), content));
    }
    reply
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut asked = Asked { method, path: path.into(), query: query.into(), ..Asked::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.insert(name.to_ascii_lowercase(), value.trim().into());
    }
    let length = asked.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).ok()?;
    Some(asked)
}

fn write(mut stream: &TcpStream, reply: &Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
    head.push_str(&match reply.untold {
        true => "Connection: close\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n", reply.body.len()),
    });
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let end = reply.cut.unwrap_or(reply.body.len());
    if let Some(each) = reply.drip {
        for byte in &reply.body {
            stream.write_all(&[*byte]).ok()?;
            thread::sleep(each);
        }
        return Some(());
    }
    stream.write_all(&reply.body[..end.min(reply.body.len())]).ok()?;
    if reply.cut.is_some() || reply.untold {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return None;
    }
    Some(())
}
