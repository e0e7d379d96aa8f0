//! Client of Firecracker's API: HTTP on a socket, one connection to a request. Answers are bounded, in size and in time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rigbox_proto::guestio::fd_request::Channel;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::descriptors::DescriptorError;
use crate::sanitize::sanitize;
use crate::vm::Vm;

/// Size of an answer.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a memory to be read or written. The node has less patience.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(600);

/// Reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::monitor) enum ApiError {
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error("the VMM did not answer within {0} s")]
    Timeout(u64),
    #[error("the VMM's API: {0}")]
    Http(#[from] hyper::Error),
    #[error("the VMM answered with more than {MAX_ANSWER_BYTES} bytes, or broke off")]
    Body,
    #[error("the VMM refused: {0}")]
    Refused(String),
}

/// Sends one request, and returns the body of its answer.
pub(super) async fn request(
    vm: &Vm,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Bytes, ApiError> {
    let stream = vm.context.descriptors.connect(&vm.boot_id, Channel::Monitor).await?;
    // What takes time is about memory.
    let timeout = if path.starts_with("/snapshot/") { MEMORY_TIMEOUT } else { ANSWER_TIMEOUT };
    send(stream, method, path, body, timeout).await
}

async fn send<S>(
    stream: S,
    method: Method,
    path: &str,
    body: Option<Value>,
    timeout: Duration,
) -> Result<Bytes, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(MAX_ANSWER_BYTES).handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))
            .map_err(|error| ApiError::Refused(error.to_string()))?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|_| ApiError::Body)?.to_bytes();
            if status.is_success() {
                return Ok(body);
            }
            Err(ApiError::Refused(format!("{status} {}", sanitize(&String::from_utf8_lossy(&body)))))
        };
        tokio::pin!(answer);
        // Polled here, so that it ends with the exchange.
        tokio::select! {
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.into()),
            },
        }
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| ApiError::Timeout(timeout.as_secs()))?
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Answers a request with these bytes, and then with nothing, or with an end.
    async fn answered(bytes: &[u8], ends: bool) -> Result<Bytes, String> {
        let (ours, mut theirs) = duplex(1 << 20);
        let bytes = bytes.to_vec();
        let vmm = tokio::spawn(async move {
            let _ = theirs.read(&mut [0; 1024]).await;
            let _ = theirs.write_all(&bytes).await;
            if !ends {
                std::future::pending::<Infallible>().await;
            }
        });
        let answer = send(ours, Method::PUT, "/actions", Some(json!({})), ANSWER_TIMEOUT)
            .await
            .map_err(|error| error.to_string());
        vmm.abort();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn api_that_answers_wrongly_is_a_clear_error() {
        assert_eq!(answered(b"HTTP/1.1 204 \r\n\r\n", false).await.unwrap(), Bytes::new());
        const LONG: &[u8] = &[b'x'; 64 * 1024];
        let too_long = [&b"HTTP/1.1 200 \r\ncontent-length: 65536\r\n\r\n"[..], LONG].concat();
        for (bytes, ends, expected) in [
            (&b"HTTP/1.1 400 \r\ncontent-length: 5\r\n\r\nwrong"[..], false, "400 Bad Request wrong"),
            (&too_long, false, "more than"),
            (b"HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\nshort", true, "broke off"),
            (b"HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\nshort", false, "within 10 s"),
            (b"", false, "within 10 s"),
            (b"", true, "API"),
            (b"garbage\r\n\r\n", false, "API"),
            (LONG, false, "API"),
        ] {
            let error = answered(bytes, ends).await.unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
