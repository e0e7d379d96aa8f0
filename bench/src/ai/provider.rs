//! Fake provider behind all proxies: Anthropic's Messages API with the same answers each time, as cheap as can be, so that what is measured
//! are the proxies. Like the real ones it speaks TLS, and HTTP/2 with clients that do.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream::{StreamExt, iter, pending};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate;
use super::message::{self, Kind};
use super::response::{field, split};
use crate::role;

/// Serves on one thread until standard input ends.
pub(super) fn serve(listen: SocketAddr, folder: &Path) -> Result<()> {
    let acceptor = certificate::acceptor(folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        tokio::select! {
            () = role::ended() => Ok(()),
            error = accept(listener, acceptor) => error,
        }
    })
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // Errors of a connection concern only its proxy.
        tokio::spawn(answer(stream, acceptor.clone()));
    }
}

/// Answers the requests of a connection.
async fn answer(stream: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    let stream = acceptor.accept(stream).await?;
    if stream.get_ref().1.alpn_protocol() == Some(certificate::HTTP_2) {
        let http = http2::Builder::new(TokioExecutor::new());
        let respond = |request| async move { anyhow::Ok(respond(request).await?) };
        return Ok(http.serve_connection(TokioIo::new(stream), service_fn(respond)).await?);
    }
    answer_http_1(stream).await
}

/// Responds to a request of HTTP/2.
async fn respond(request: Request<Incoming>) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>> {
    let kind = message::kind_of(&request.into_body().collect().await?.to_bytes());
    let [start, token, rest] = message::events().map(|part| Ok(Frame::data(Bytes::from(part))));
    let body = match kind {
        Kind::Document => Full::from(message::document()).boxed_unsync(),
        Kind::Stream => StreamBody::new(iter([start, token, rest])).boxed_unsync(),
        Kind::HeldStream => StreamBody::new(iter([start, token]).chain(pending())).boxed_unsync(),
    };
    let response = Response::builder().header("content-type", message::content_type(kind));
    Ok(response.header("request-id", message::REQUEST_ID).body(body)?)
}

/// Answers the requests of a connection of HTTP/1.1.
async fn answer_http_1(mut stream: TlsStream<TcpStream>) -> Result<()> {
    let (document, [start, token, rest]) = (message::document_response(), message::stream_response());
    let mut received = Vec::with_capacity(4096);
    while let Some((kind, length)) = read_request(&mut stream, &mut received).await? {
        received.drain(..length);
        match kind {
            Kind::Document => send(&mut stream, &document).await?,
            Kind::Stream => {
                for part in [&start, &token, &rest] {
                    send(&mut stream, part).await?;
                }
            }
            Kind::HeldStream => {
                for part in [&start, &token] {
                    send(&mut stream, part).await?;
                }
                // Until the proxy has enough.
                while stream.read_buf(&mut received).await? > 0 {}
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn send(stream: &mut TlsStream<TcpStream>, part: &[u8]) -> Result<()> {
    stream.write_all(part).await?;
    Ok(stream.flush().await?)
}

/// Reads until there is a whole request. Returns its kind and its length, or nothing at the end of the connection.
async fn read_request(
    stream: &mut TlsStream<TcpStream>,
    received: &mut Vec<u8>,
) -> Result<Option<(Kind, usize)>> {
    loop {
        if let Some(request) = whole(received)? {
            return Ok(Some(request));
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
}

fn whole(received: &[u8]) -> Result<Option<(Kind, usize)>> {
    let Some((head, rest)) = split(received, b"\r\n\r\n") else { return Ok(None) };
    let length = field(std::str::from_utf8(head)?, "content-length");
    let length: usize = length.context("a request without a length")?.parse()?;
    let body = rest.get(..length);
    Ok(body.map(|body| (message::kind_of(body), head.len() + 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_read_to_its_end() {
        let request = message::request(Kind::Stream);
        assert_eq!(whole(&request).unwrap(), Some((Kind::Stream, request.len())));
        assert_eq!(whole(&request[..request.len() - 1]).unwrap(), None);
    }
}
