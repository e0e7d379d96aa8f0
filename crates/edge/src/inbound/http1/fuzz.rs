//! Fuzz targets of the strict reader: heads and chunks against another parser, and whole connections against the HTTP library behind it.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rigbox_gateway::connections::BusyGuard;
use rigbox_testkit::Pieces;

use super::tests::client;
use super::*;

/// Number of fields that the other parser has space for: one more than a head may have.
const FIELDS: usize = 101;

/// Reads a head that arrives in pieces of `length` bytes.
fn head_in_pieces(bytes: &[u8], length: usize) -> Result<Option<(usize, Framing)>, &'static str> {
    let mut head = Head::default();
    for end in (length..bytes.len()).step_by(length) {
        let read = head.parse(bytes.get(..end).unwrap());
        if read != Ok(None) {
            return read;
        }
    }
    head.parse(bytes)
}

/// Reads a chunked body that arrives in pieces of `length` bytes. Returns its end.
fn chunks_in_pieces(bytes: &[u8], length: usize) -> Result<Option<usize>, &'static str> {
    let (mut chunked, mut at) = (Chunked::default(), 0);
    for piece in bytes.chunks(length) {
        let (taken, ended) = chunked.parse(piece)?;
        assert!(taken == piece.len() || (ended && taken < piece.len()));
        at += taken;
        if ended {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Request as another parser reads it.
#[derive(Debug, PartialEq)]
struct Read {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// Reads a head with another parser, which may refuse it. Checks that both find the same end and the same framing.
fn read_head(bytes: &[u8], length: usize, framing: Framing) -> Option<Read> {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes).ok()?;
    assert_eq!(parsed, httparse::Status::Complete(length), "both find the end of the head");
    let values = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value).collect()
    };
    let number = |value: &[u8]| -> u64 { std::str::from_utf8(value).unwrap().parse().unwrap() };
    match (framing, &values("content-length")[..], &values("transfer-encoding")[..]) {
        (Framing::Nothing | Framing::Response, [], []) => {}
        (Framing::Nothing | Framing::Response, [zero], []) => assert_eq!(number(zero), 0),
        (Framing::Bytes(length), [value], []) => assert_eq!(number(value), length),
        (Framing::Chunked, [], [coding]) => assert!(coding.eq_ignore_ascii_case(b"chunked")),
        other => panic!("the head has one framing: {other:?}"),
    }
    Some(Read {
        method: request.method.unwrap().to_owned(),
        target: request.path.unwrap().to_owned(),
        body: Vec::new(),
    })
}

/// Decodes a chunked body, and trusts it to be valid. Returns its data and its end.
fn decode_chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| {
        let end = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        Some((String::from_utf8_lossy(bytes.get(at..end)?), end + 2))
    };
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let (size, start) = line(at)?;
        let size = usize::from_str_radix(size.split(';').next()?.trim_end(), 16).ok()?;
        at = start;
        if size == 0 {
            break;
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at = at + size + 2;
    }
    loop {
        let end = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        if end == at {
            return Some((data, end + 2));
        }
        at = end + 2;
    }
}

#[test]
fn http1_head() {
    bolero::check!(name = "http1_head").for_each(|bytes: &[u8]| {
        let whole = Head::default().parse(bytes);
        for length in [1, 7, 64] {
            assert_eq!(whole, head_in_pieces(bytes, length), "the end of a read makes no difference");
        }
        let Ok(Some((length, framing))) = whole else { return };
        assert!(length <= bytes.len());
        assert_eq!(Head::default().parse(&bytes[..length]), whole, "what follows makes no difference");
        read_head(bytes, length, framing);
    });
}

#[test]
fn http1_chunks() {
    bolero::check!(name = "http1_chunks").for_each(|bytes: &[u8]| {
        let whole = chunks_in_pieces(bytes, bytes.len().max(1));
        for length in [1, 3, 16] {
            assert_eq!(whole, chunks_in_pieces(bytes, length), "the end of a read makes no difference");
        }
        if let Ok(Some(end)) = whole {
            assert_eq!(decode_chunks(bytes).map(|(_, end)| end), Some(end), "both find the end of the body");
        }
    });
}

/// Reads the requests of a connection, up to the first that is malformed or incomplete.
fn requests(bytes: &[u8]) -> Vec<Read> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while let Some(rest) = bytes.get(at..)
        && let Ok(Some((length, framing))) = Head::default().parse(rest)
        && let Some(mut request) = read_head(rest, length, framing)
    {
        let body = rest.get(length..).unwrap_or_default();
        let read = match framing {
            Framing::Nothing | Framing::Response => Some((Vec::new(), 0)),
            Framing::Bytes(count) => {
                let count = usize::try_from(count).unwrap();
                body.get(..count).map(|body| (body.to_vec(), count))
            }
            Framing::Chunked => decode_chunks(body),
        };
        let Some((data, end)) = read else { break };
        request.body = data;
        requests.push(request);
        at += length + end;
    }
    requests
}

/// Serves a connection with the HTTP library behind the reader. Returns the requests that it reads to their ends.
async fn serve(stream: Pieces) -> Vec<Read> {
    let (client, upgrade) = (Arc::new(client()), Arc::new(UpgradeFlag::default()));
    let guard = Guard::new(stream, &[], Arc::clone(&upgrade), Arc::clone(client.connection()));
    let served = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let (served, upgrade) = (Arc::clone(&served), Arc::clone(&upgrade));
        let busy = BusyGuard::new(&client);
        async move {
            let _busy = busy;
            let (head, body) = request.into_parts();
            if !head.headers.contains_key(MALFORMED)
                && let Ok(body) = body.collect().await
            {
                let (method, target) = (head.method.to_string(), head.uri.to_string());
                served.lock().unwrap().push(Read { method, target, body: body.to_bytes().to_vec() });
            }
            upgrade.decline();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    // A malformed request ends the connection.
    let _ = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(guard), service)
        .await;
    std::mem::take(&mut *served.lock().unwrap())
}

#[test]
fn http1_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bolero::check!(name = "http1_connection").for_each(|bytes: &[u8]| {
        let sent = requests(bytes);
        let whole = runtime.block_on(serve(Pieces::whole(bytes)));
        let split = runtime.block_on(serve(Pieces::split(bytes)));
        assert_eq!(whole, split, "the end of a read makes no difference");
        assert!(whole.len() <= sent.len(), "{whole:?} are more than {sent:?}");
        for (served, sent) in whole.iter().zip(&sent) {
            assert_eq!((&served.method, &served.body), (&sent.method, &sent.body));
        }
    });
}
