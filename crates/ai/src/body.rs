//! Body of a request: read whole under a limit, and decoded.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rigbox_core::ids::WorkspaceId;
use rigbox_shares::{Bounds, Place, Shares};
use tokio::time::{Duration, Instant, timeout};

use crate::error::{CallError, ErrorKind};

/// Size from which a body needs a place among the large ones, in bytes.
const LARGE_BYTES: usize = 1 << 20;
/// Memory that a value takes while its request is walked through, about, in bytes.
const VALUE_BYTES: usize = 64;
/// Large bodies at once: each takes its size several times while it is walked through.
const LARGE_BODIES: Bounds = Bounds { total: 16, per_key: 4 };
/// Time that a large body waits for its place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that an upload may stand still.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reader of bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    large: Shares<WorkspaceId>,
    max_bytes: usize,
    /// Time for the rest of a large body.
    upload: Duration,
}

/// Body that was read, with its place if it is large.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    _place: Option<Place<WorkspaceId>>,
}

impl Bodies {
    pub(crate) fn new(max_bytes: usize, upload: Duration) -> Self {
        Self { large: Shares::new(LARGE_BODIES), max_bytes, upload }
    }

    /// Reads and decodes a body.
    pub(crate) async fn read(
        &self,
        workspace: &WorkspaceId,
        headers: &HeaderMap,
        mut incoming: Incoming,
    ) -> Result<Body, CallError> {
        let too_large = || {
            let limit = self.max_bytes >> 20;
            CallError::new(ErrorKind::TooLarge, format!("The body is larger than {limit} MiB."))
        };
        let encoding = Encoding::of(headers)?;
        let (mut read, mut place) = (BytesMut::new(), None);
        let mut until: Option<Instant> = None;
        loop {
            let left = until.map_or(IDLE_TIMEOUT, |until| until.saturating_duration_since(Instant::now()));
            let frame = timeout(left.min(IDLE_TIMEOUT), incoming.frame()).await;
            let frame =
                frame.map_err(|_| CallError::new(ErrorKind::InvalidRequest, "The body came too slowly."))?;
            let Some(frame) = frame else { break };
            let frame =
                frame.map_err(|_| CallError::new(ErrorKind::InvalidRequest, "The body broke off."))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len().saturating_add(data.len()) > self.max_bytes {
                return Err(too_large());
            }
            if place.is_none() && (read.len() + data.len() > LARGE_BYTES || encoding != Encoding::Identity) {
                place = Some(self.place(workspace).await?);
                until = Some(Instant::now() + self.upload);
            }
            read.extend_from_slice(&data);
        }
        let bytes = read.freeze();
        let max_bytes = self.max_bytes;
        let bytes = match encoding {
            Encoding::Identity => bytes,
            encoding => tokio::task::spawn_blocking(move || decode(encoding, &bytes, max_bytes))
                .await
                .map_err(|_| CallError::new(ErrorKind::Unavailable, "The body could not be decoded."))?
                .map_err(|problem| match problem {
                    Problem::TooLarge => too_large(),
                    Problem::Invalid => CallError::new(
                        ErrorKind::InvalidRequest,
                        "The body is not what Content-Encoding says.",
                    ),
                })?,
        };
        if place.is_none() && weight(&bytes) > LARGE_BYTES {
            place = Some(self.place(workspace).await?);
        }
        Ok(Body { bytes, _place: place })
    }

    /// Waits for a place among the large bodies.
    async fn place(&self, workspace: &WorkspaceId) -> Result<Place<WorkspaceId>, CallError> {
        let place = timeout(PLACE_TIMEOUT, self.large.wait(workspace.clone())).await;
        let text = "Too many large requests are being read. Try again.";
        place.map_err(|_| CallError::new(ErrorKind::RateLimit, text))
    }
}

/// Returns what a body takes, about, while it is walked through, in bytes. Of some, each byte or two are a value.
fn weight(bytes: &[u8]) -> usize {
    let values = memchr::memchr3_iter(b',', b'[', b'{', bytes).count();
    bytes.len().saturating_add(values.saturating_mul(VALUE_BYTES))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

enum Problem {
    TooLarge,
    Invalid,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, CallError> {
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        match (values.next().map(http::HeaderValue::as_bytes), values.next()) {
            (None | Some(b"identity"), None) => Ok(Self::Identity),
            (Some(b"gzip"), None) => Ok(Self::Gzip),
            (Some(b"zstd"), None) => Ok(Self::Zstd),
            _ => Err(CallError::new(
                ErrorKind::UnsupportedMedia,
                "The proxy decodes bodies with Content-Encoding gzip or zstd only.",
            )),
        }
    }
}

fn decode(encoding: Encoding, bytes: &[u8], max_bytes: usize) -> Result<Bytes, Problem> {
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let mut decoded = Vec::new();
    let outcome = match encoding {
        Encoding::Identity => return Ok(Bytes::copy_from_slice(bytes)),
        Encoding::Gzip => flate2::read::MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut decoded),
        Encoding::Zstd => ruzstd::decoding::StreamingDecoder::new(bytes)
            .map_err(|_| Problem::Invalid)?
            .take(limit)
            .read_to_end(&mut decoded),
    };
    outcome.map_err(|_| Problem::Invalid)?;
    if decoded.len() > max_bytes { Err(Problem::TooLarge) } else { Ok(Bytes::from(decoded)) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn body_of_many_values_is_large() {
        assert!(weight("[0,".repeat(10_000).as_bytes()) > LARGE_BYTES);
        assert!(weight("Some words, and some more. ".repeat(10_000).as_bytes()) <= LARGE_BYTES);
        assert!(size_of::<crate::json::Value<'_>>() <= VALUE_BYTES);
    }

    #[test]
    fn decoded_bodies_are_bounded() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b'x'; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 4096);
        assert!(matches!(decode(Encoding::Gzip, &bomb, 1 << 19), Err(Problem::TooLarge)));
        assert_eq!(decode(Encoding::Gzip, &bomb, 1 << 20).ok().map(|bytes| bytes.len()), Some(1 << 20));
        assert!(matches!(decode(Encoding::Gzip, b"{}", 100), Err(Problem::Invalid)));
        assert!(matches!(decode(Encoding::Zstd, b"{}", 100), Err(Problem::Invalid)));
    }
}
