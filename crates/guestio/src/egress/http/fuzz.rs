//! Fuzz target of the requests of a guest to port 80: what a server reads is what was checked.

use std::sync::{Mutex, PoisonError};

use rigbox_testkit::Pieces;

use super::*;

/// Response to each request.
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Host that was checked, and the bytes that a server of it gets.
type Sent = (String, Vec<u8>);

/// Serves one connection of the VM. Returns what its requests became.
async fn serve(stream: Pieces) -> Vec<Sent> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|mut request: Request<Incoming>| {
        let sent = Arc::clone(&sent);
        async move {
            let host = host_of(&request)
                .filter(|_| has_plain_coding(&request))
                .ok_or(io::ErrorKind::InvalidInput)?;
            // The test is of the request alone, and nothing switches protocols here.
            prepare(&mut request).map(drop)?;
            let server = Pieces::whole(RESPONSE).after_written(1);
            let written = server.written();
            let handshake = requests_writer().handshake(TokioIo::new(server)).await;
            let (mut requests, driver) = handshake.map_err(io::Error::other)?;
            let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
            let response = requests.send_request(request).await;
            sent.lock().unwrap_or_else(PoisonError::into_inner).push((host, written.bytes()));
            let mut answer = Response::new(Full::<Bytes>::default());
            *answer.status_mut() = response.map_err(io::Error::other)?.status();
            Ok::<_, io::Error>(answer)
        }
    });
    // Malformed requests end the connection.
    // The end of the input is no end of the client, which would abort its last request.
    let _ = requests_reader().half_close(true).serve_connection(TokioIo::new(stream), service).await;
    std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Reads a request with another parser.
fn check((host, bytes): &Sent) {
    // The library refused to write it.
    if bytes.is_empty() {
        return;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS + 8];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes).expect("a server reads the request");
    let httparse::Status::Complete(length) = parsed else { panic!("the head is cut off: {bytes:?}") };
    let values = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value).collect()
    };
    let [named] = values("host")[..] else { panic!("there is one host: {bytes:?}") };
    let named = String::from_utf8(named.to_ascii_lowercase()).unwrap();
    let named = named.strip_suffix(":80").unwrap_or(&named);
    assert_eq!(named.strip_suffix('.').unwrap_or(named), host, "the server reads the host that was checked");
    let path = request.path.unwrap();
    assert!(path.starts_with('/') || path == "*", "{path:?} names no other host");
    let rest = bytes.len() - length;
    match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => assert_eq!(rest, 0, "a request without a body"),
        ([length], []) => {
            let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
            assert!(rest <= length, "no more than the body follows");
        }
        ([], [coding]) => assert!(coding.eq_ignore_ascii_case(b"chunked")),
        _ => panic!("the body has more than one length: {bytes:?}"),
    }
}

#[test]
fn egress_request() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bolero::check!(name = "egress_request").for_each(|bytes: &[u8]| {
        let whole = runtime.block_on(serve(Pieces::whole(bytes)));
        let split = runtime.block_on(serve(Pieces::split(bytes)));
        whole.iter().chain(&split).for_each(check);
        let hosts = |sent: &[Sent]| sent.first().map(|(host, _)| host.clone());
        assert_eq!(hosts(&whole), hosts(&split), "the end of a read makes no difference");
    });
}
