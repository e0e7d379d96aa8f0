//! A client that sends exactly what it is told to.

use std::net::SocketAddr;

use http::header::HOST as HOST_HEADER;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{HOST, soon};

/// Response, read to the end of its connection.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    pub(crate) fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        document["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends bytes and reads to the end. Returns `None` if there is no response.
pub(crate) async fn raw(edge: SocketAddr, bytes: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = soon("the end of a response", stream.read_to_end(&mut answer)).await;
    parse(&answer)
}

/// Sends a request, and returns what comes back until nothing has come for a moment.
pub(crate) async fn raw_text(edge: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut answer, mut room) = (Vec::new(), [0; 4096]);
    let mut wait = std::time::Duration::from_secs(5);
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(wait, stream.read(&mut room)).await {
        answer.extend_from_slice(&room[..count]);
        wait = std::time::Duration::from_millis(100);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value.trim()).unwrap(),
        );
    }
    let body = String::from_utf8_lossy(&answer[end + 4..]).into_owned();
    Some(Reply { status, headers, body })
}

/// Makes a request with these headers, on a connection of its own.
pub(crate) async fn ask(edge: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let host = if headers.iter().any(|(name, _)| *name == HOST_HEADER) {
        String::new()
    } else {
        format!("host: {HOST}:7080\r\n")
    };
    let mut text = format!("{method} {path} HTTP/1.1\r\n{host}");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        text.push_str("connection: close\r\n");
    }
    text.push_str("\r\n");
    raw(edge, text.as_bytes()).await.unwrap_or_else(|| panic!("no response to {method} {path}"))
}

pub(crate) async fn get(edge: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Reply {
    ask(edge, "GET", path, headers).await
}

/// Headers of a browser that navigates to a page.
pub(crate) const NAVIGATES: [(&str, &str); 4] = [
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-site", "none"),
    ("accept", "text/html,*/*"),
];
