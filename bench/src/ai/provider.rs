//! Fake provider behind all proxies: Anthropic's Messages API with the same answers each time, as cheap as can be, so that what is measured
//! are the proxies.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::message::{self, Kind};
use super::response::{field, split};
use crate::role;

/// Serves on one thread until standard input ends.
pub(super) fn serve(listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        tokio::select! {
            () = role::ended() => Ok(()),
            error = accept(listener) => error,
        }
    })
}

async fn accept(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // Errors of a connection concern only its proxy.
        tokio::spawn(answer(stream));
    }
}

/// Answers the requests of a connection.
async fn answer(mut stream: TcpStream) -> Result<()> {
    let (document, [start, token, rest]) = (message::document(), message::stream());
    let mut received = Vec::with_capacity(4096);
    while let Some((kind, length)) = read_request(&mut stream, &mut received).await? {
        received.drain(..length);
        match kind {
            Kind::Document => stream.write_all(&document).await?,
            Kind::Stream => {
                for part in [&start, &token, &rest] {
                    stream.write_all(part).await?;
                }
            }
            Kind::HeldStream => {
                for part in [&start, &token] {
                    stream.write_all(part).await?;
                }
                // Until the proxy has enough.
                while stream.read_buf(&mut received).await? > 0 {}
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads until there is a whole request. Returns its kind and its length, or nothing at the end of the connection.
async fn read_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<Option<(Kind, usize)>> {
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
