//! Calls in flight, and the connections that they come by.
//!
//! A stop waits for calls and not for clients: one that has stopped itself neither hangs up nor
//! says that it has heard of the stop, and would hold a graceful shutdown up to its last moment.
//! So calls are counted, and once there are none what is left of the connections is cut.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cri_server::RpcFigures;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::server::Connected;

/// A call that has no end of its own: a client that does not read its stream does not hold a stop
/// up either.
const ENDLESS: &str = "/runtime.v1.RuntimeService/GetContainerEvents";

/// The calls in flight, of all sockets; clones are the same ones.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    count: watch::Sender<usize>,
    figures: Arc<RpcFigures>,
}

impl Calls {
    pub(super) fn new(figures: Arc<RpcFigures>) -> Self {
        Self { count: watch::Sender::new(0), figures }
    }

    /// A service whose calls are counted, from the request's head to the answer's end.
    pub(super) fn of<S>(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.clone() }
    }

    /// Waits until there was none for a while.
    pub(super) async fn none_for(&self, pause: Duration) {
        let mut count = self.count.subscribe();
        loop {
            // The sender is ours: neither wait can fail.
            let _ = count.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(pause, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }

    fn begin(&self) -> InFlight {
        self.count.send_modify(|count| *count += 1);
        InFlight(self.count.clone())
    }
}

/// A call, until it is dropped.
#[derive(Debug)]
struct InFlight(watch::Sender<usize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// See [`Calls::of`].
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let call = (path != ENDLESS).then(|| self.calls.begin());
        let mut rpc = self.calls.figures.begin(path);
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            // An answer without a message has its code in the head.
            rpc.heard(answer.headers());
            // What its frames pass through has the call, and goes with the last of them.
            Ok(answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &call;
                    if let Some(trailers) = frame.trailers_ref() {
                        rpc.heard(trailers);
                    }
                    frame
                }))
            }))
        })
    }
}

/// A client's connection, which can be cut.
pub(super) struct Connection<T> {
    inner: T,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl<T> Connection<T> {
    /// One that fails once `cut` says so.
    pub(super) fn new(inner: T, mut cut: watch::Receiver<bool>) -> Self {
        let cut = Box::pin(async move {
            if cut.wait_for(|cut| *cut).await.is_err() {
                // Who could have said it is gone.
                std::future::pending::<()>().await;
            }
        });
        Self { inner, cut, is_cut: false }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        if self.is_cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: Connected> Connected for Connection<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(200);

    /// Answers with a body.
    #[derive(Clone)]
    struct Answers;

    impl Service<Request<Body>> for Answers {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let body = http_body_util::Full::from("answer");
            std::future::ready(Ok(Response::new(Body::new(body))))
        }
    }

    fn request(path: &str) -> Request<Body> {
        Request::builder().uri(path).body(Body::empty()).expect("a request")
    }

    #[tokio::test]
    async fn a_call_is_in_flight_until_its_answer_is_sent() {
        let calls = Calls::new(RpcFigures::new());
        let mut service = calls.of(Answers);
        let answering = service.call(request("/runtime.v1.RuntimeService/Version"));
        assert_eq!(*calls.count.borrow(), 1);
        let answer = answering.await.expect("an answer");
        assert_eq!(*calls.count.borrow(), 1);
        let sent = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!((&sent[..], *calls.count.borrow()), (&b"answer"[..], 0));
        // One that is given up is none either.
        drop(service.call(request("/runtime.v1.RuntimeService/Version")));
        assert_eq!(*calls.count.borrow(), 0);
        // Nor is a stream without an end.
        let endless = service.call(request(ENDLESS)).await.expect("an answer");
        assert_eq!(*calls.count.borrow(), 0);
        drop(endless);
    }

    #[tokio::test]
    async fn a_call_that_comes_late_is_waited_for() {
        let calls = Calls::new(RpcFigures::new());
        let first = calls.begin();
        let waiting = tokio::spawn({
            let calls = calls.clone();
            async move { calls.none_for(PAUSE).await }
        });
        // The second comes in the pause after the first.
        tokio::task::yield_now().await;
        drop(first);
        tokio::task::yield_now().await;
        let second = calls.begin();
        tokio::time::sleep(PAUSE * 2).await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.expect("none are left");
    }

    #[tokio::test]
    async fn a_connection_is_cut_under_who_reads_it() {
        let (mut far, near) = tokio::io::duplex(64);
        let cut = watch::Sender::new(false);
        let mut near = Connection::new(near, cut.subscribe());
        far.write_all(b"x").await.expect("written");
        assert_eq!(near.read_u8().await.expect("read"), b'x');
        let reading = tokio::spawn(async move {
            let read = near.read_u8().await.map_err(|error| error.kind());
            (read, near.write_u8(0).await.map_err(|error| error.kind()))
        });
        cut.send_replace(true);
        let aborted = io::ErrorKind::ConnectionAborted;
        assert_eq!(reading.await.expect("ended"), (Err(aborted), Err(aborted)));
        assert_eq!(far.read(&mut [0]).await.expect("its end"), 0);
    }
}
