//! Requirements of RFC 9110, 9112, 9113 and 6455 for intermediaries, one row each: the requirement, its section, and whether edge keeps
//! it or what was decided otherwise and why. Each row has its request; also where a requirement is not kept, what happens is fixed.
//!
//! Requirements that other files test at length (framing, hop-by-hop fields, WebSockets) have a row here too.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use rigbox_edge::Limits;

use crate::support::backend::Scripted;
use crate::support::http::raw_text;
use crate::support::{HOST, NEVER_IDLE, ORIGIN, World, http2, soon};

use Verdict::{Kept, Otherwise};

/// Decision about a requirement.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Kept,
    /// Decided otherwise, for this reason.
    Otherwise(&'static str),
}

/// Requirement on HTTP/1, with a request and what an app answers.
struct Row {
    section: &'static str,
    requirement: &'static str,
    verdict: Verdict,
    /// The client's request.
    request: &'static str,
    response: &'static str,
    /// Parts of what the app receives; after `!`, what it does not. Nothing: the app is not reached.
    app_gets: &'static [&'static str],
    /// Parts of what the client receives; after `!`, what it does not.
    client_gets: &'static [&'static str],
}

const fn row(section: &'static str, requirement: &'static str) -> Row {
    Row {
        section,
        requirement,
        verdict: Kept,
        request: "GET @ HTTP/1.1\nHost: HOST\n\n",
        response: OK,
        app_gets: &["GET "],
        client_gets: &["HTTP/1.1 200"],
    }
}

const OK: &str = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok";

/// Rows. In requests, `@` is the row's path and `HOST` the app's host; lines end with CR LF.
fn rows() -> Vec<Row> {
    vec![
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nX-Unheard-Of: a\nX-Unheard-Of: b\n\n",
            response: "HTTP/1.1 200 OK\nX-New: c\nX-New: d\nContent-Length: 2\n\nok",
            app_gets: &["x-unheard-of: a\r\nx-unheard-of: b\r\n"],
            client_gets: &["x-new: c\r\nx-new: d\r\n"],
            ..row("9110 5.1, 5.3", "MUST forward unrecognized fields, and keep the order of equal names")
        },
        Row {
            request: "POST @ HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n2\nab\n0\nX-Late: x\n\n",
            app_gets: &["POST ", "!x-late"],
            ..row("9110 6.5.1", "MUST NOT merge trailers into the header section")
        },
        Row {
            client_gets: &["HTTP/1.1 200", "date: "],
            ..row("9110 6.6.1", "MUST append Date to a response that has none")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nConnection: close, X-Hop\nX-Hop: x\nKeep-Alive: timeout=5\nTE: gzip\n\
                      Proxy-Connection: x\nProxy-Authorization: x\n\n",
            response: "HTTP/1.1 200 OK\nConnection: X-Hop\nX-Hop: y\nKeep-Alive: timeout=5\nContent-Length: 2\n\nok",
            app_gets: &["!x-hop", "!keep-alive", "!\r\nte:", "!proxy-"],
            client_gets: &["HTTP/1.1 200", "!x-hop", "!keep-alive"],
            ..row("9110 7.6.1", "MUST remove Connection and the fields that it names")
        },
        Row {
            request: "OPTIONS @ HTTP/1.1\nHost: HOST\nMax-Forwards: 0\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 204", "allow: "],
            ..row("9110 7.6.2", "MUST NOT forward OPTIONS with Max-Forwards: 0, and MUST answer it")
        },
        Row {
            request: "TRACE @ HTTP/1.1\nHost: HOST\nMax-Forwards: 0\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 405", "allow: "],
            ..row("9110 7.6.2", "MUST NOT forward TRACE with Max-Forwards: 0, and MUST answer it")
        },
        Row {
            request: "OPTIONS @ HTTP/1.1\nHost: HOST\nMax-Forwards: 7\n\n",
            app_gets: &["max-forwards: 6\r\n"],
            ..row("9110 7.6.2", "MUST forward a greater Max-Forwards decremented by one")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nVia: 1.0 first\n\n",
            app_gets: &["via: 1.0 first\r\nvia: 1.1 rigbox\r\n"],
            client_gets: &["HTTP/1.1 200", "!via:"],
            ..row("9110 7.6.3", "gateway MUST send Via in each request it forwards (in responses it MAY)")
        },
        Row {
            request: "GET @/%7e/./%2E%2e//a?b=%20+&&c HTTP/1.1\nHost: HOST\n\n",
            app_gets: &["/%7e/./%2E%2e//a?b=%20+&&c HTTP/1.1\r\n"],
            ..row("9110 7.7", "MUST NOT modify the path and query of the target")
        },
        Row {
            response: "HTTP/1.1 200 OK\nCache-Control: no-transform\nContent-Encoding: gzip\nContent-Length: 2\n\nxx",
            client_gets: &["content-encoding: gzip\r\n", "content-length: 2\r\n", "\r\n\r\nxx"],
            ..row("9110 7.7", "MUST NOT transform the content of a no-transform message")
        },
        Row {
            response: "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: other\n\n",
            client_gets: &["HTTP/1.1 502", "app_failed"],
            ..row("9110 7.8", "MUST NOT switch to a protocol that the client did not ask for")
        },
        Row {
            request: "HEAD @ HTTP/1.1\nHost: HOST\n\n",
            response: "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
            app_gets: &["HEAD "],
            client_gets: &["content-length: 5\r\n"],
            ..row("9110 9.3.2", "MUST NOT send content in the response to HEAD")
        },
        Row {
            verdict: Otherwise(
                "edge is no tunnel: a path to an arbitrary port would be one past its permission",
            ),
            request: "CONNECT HOST:80 HTTP/1.1\nHost: HOST\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9110 9.3.6", "CONNECT asks a proxy for a tunnel (RFC 8441 apart)")
        },
        Row {
            request: "POST @ HTTP/1.1\nHost: HOST\nExpect: 100-continue\nContent-Length: 2\n\nab",
            response: "HTTP/1.1 413 Content Too Large\nContent-Length: 0\n\n",
            app_gets: &["expect: 100-continue\r\n"],
            client_gets: &["HTTP/1.1 413"],
            ..row("9110 10.1.1", "MUST forward the expectation of 100 (Continue)")
        },
        Row {
            request: "POST @ HTTP/1.0\nHost: HOST\nExpect: 100-continue\nContent-Length: 2\n\nab",
            app_gets: &["!expect"],
            client_gets: &["HTTP/1.0 200"],
            ..row("9110 10.1.1, 15.2", "MUST NOT answer HTTP/1.0 with a 100")
        },
        Row {
            verdict: Otherwise(
                "the HTTP library's server has no way to send a 1xx, in HTTP/1 or HTTP/2; between its buffers and the socket one could be put \
                 into the middle of an earlier response",
            ),
            response: "HTTP/1.1 103 Early Hints\nLink: </a.css>; rel=preload\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            client_gets: &["HTTP/1.1 200", "!103"],
            ..row("9110 15.2", "MUST forward 1xx responses")
        },
        Row {
            response: "HTTP/1.1 299 Something\nContent-Length: 2\n\nok",
            client_gets: &["HTTP/1.1 299"],
            ..row("9110 15", "status codes need not be known to be forwarded")
        },
        Row {
            response: "HTTP/1.1 426 Upgrade Required\nConnection: Upgrade\nUpgrade: other/2\nContent-Length: 0\n\n",
            client_gets: &["HTTP/1.1 426", "upgrade: other/2\r\n"],
            ..row("9110 15.5.22", "MUST send Upgrade in a 426")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nX: a\rb\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9112 2.2", "MUST take a bare CR for an error, or replace it")
        },
        Row {
            request: "\nGET @ HTTP/1.1\nHost: HOST\n\n",
            ..row("9112 2.2", "an empty line before a request SHOULD be ignored")
        },
        Row {
            request: "GET @ HTTP/1.0\nHost: HOST\n\n",
            app_gets: &[" HTTP/1.1\r\n", "via: 1.0 rigbox\r\n"],
            client_gets: &[" 200 OK"],
            ..row("9112 2.3", "MUST send the own version in requests, not the one received")
        },
        Row {
            verdict: Otherwise(
                "the library answers a client of HTTP/1.0 in HTTP/1.0, which every such client reads",
            ),
            request: "GET @ HTTP/1.0\nHost: HOST\n\n",
            client_gets: &["HTTP/1.0 200"],
            ..row("9112 2.3", "MUST send the own version in responses to HTTP/1.0 too")
        },
        Row {
            response: "HTTP/1.0 200 OK\nContent-Length: 2\n\nok",
            client_gets: &["HTTP/1.1 200"],
            ..row("9112 2.3", "MUST send the own version in responses, not that of the app")
        },
        Row {
            verdict: Otherwise("no such version exists; the library reads 1.0 and 1.1 only"),
            request: "GET @ HTTP/1.2\nHost: HOST\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 505", "HTTP/1.1 nor HTTP/1.0"],
            ..row("9110 2.5", "a higher minor version SHOULD be processed as the highest one known")
        },
        Row {
            request: "GET @ HTTP/1.1\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400", "bad_host"],
            ..row("9112 3.2", "MUST answer a request without Host with 400")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nHost: HOST\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400", "bad_host"],
            ..row("9112 3.2", "MUST answer a request with several Hosts with 400")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: a b\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400", "bad_host"],
            ..row("9112 3.2", "MUST answer a request with an invalid Host with 400")
        },
        Row {
            request: "GET http://HOST@ HTTP/1.1\nHost: other.example\n\n",
            app_gets: &["GET /", "host: web.rigbox.localhost\r\n", "!other.example"],
            ..row("9112 3.2.2", "MUST accept the absolute form, ignore Host, and replace it")
        },
        Row {
            request: "OPTIONS * HTTP/1.1\nHost: HOST\n\n",
            app_gets: &["OPTIONS * HTTP/1.1\r\n"],
            ..row("9112 3.2.4", "MUST forward OPTIONS for the whole server as `*`")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nX : a\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9112 5.1", "MUST refuse a request with a space before a colon with 400")
        },
        Row {
            verdict: Otherwise("such a response is refused as a whole, as its reading is not certain"),
            response: "HTTP/1.1 200 OK\nX : a\nContent-Length: 2\n\nok",
            client_gets: &["HTTP/1.1 502", "app_failed"],
            ..row("9112 5.1", "MUST remove a space before a colon from a response")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nX: a\n b\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9112 5.2", "MUST refuse a request with a folded line, or unfold it")
        },
        Row {
            response: "HTTP/1.1 200 OK\nX: a\n b\nContent-Length: 2\n\nok",
            client_gets: &["HTTP/1.1 502", "app_failed"],
            ..row("9112 5.2", "MUST answer with 502 for a response with a folded line, or unfold it")
        },
        Row {
            request: "POST @ HTTP/1.0\nHost: HOST\nTransfer-Encoding: chunked\n\n0\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9112 6.1", "MUST take Transfer-Encoding in HTTP/1.0 for faulty framing")
        },
        Row {
            request: "POST @ HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9112 6.3", "a request with both lengths: refused, or without Content-Length")
        },
        Row {
            response: "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n",
            client_gets: &["HTTP/1.1 200", "!content-length", "hello"],
            ..row("9112 6.3", "MUST remove Content-Length from a response with both lengths")
        },
        Row {
            request: "POST @ HTTP/1.1\nHost: HOST\nContent-Length: 2x\n\nab",
            app_gets: &[],
            client_gets: &["HTTP/1.1 400"],
            ..row("9112 6.3", "MUST answer an invalid Content-Length with 400")
        },
        Row {
            response: "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nok",
            client_gets: &["HTTP/1.1 502", "app_failed"],
            ..row("9112 6.3", "MUST answer with 502 for an invalid Content-Length of a response")
        },
        Row {
            request: "POST @ HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n2;a=\"b\";c\nab\n0\n\n",
            app_gets: &["POST "],
            ..row("9112 7.1.1", "MUST ignore unrecognized chunk extensions")
        },
        Row {
            request: "GET @ HTTP/1.0\nHost: HOST\nConnection: keep-alive\n\n",
            app_gets: &["!keep-alive"],
            client_gets: &["HTTP/1.0 200"],
            ..row("9112 C.2.2", "MUST NOT forward Connection: keep-alive of HTTP/1.0")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: a, b\n\n",
            response: "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\nSec-WebSocket-Protocol: b\n\nframes",
            app_gets: &[
                "connection: Upgrade\r\n",
                "upgrade: websocket\r\n",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                "sec-websocket-protocol: a, b\r\n",
            ],
            client_gets: &[
                "HTTP/1.1 101",
                "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
                "sec-websocket-protocol: b\r\n",
                "\r\n\r\nframes",
            ],
            ..row("6455 4, 5", "the handshake and the frames pass as they are")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 99\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
            response: "HTTP/1.1 426 Upgrade Required\nSec-WebSocket-Version: 13\nUpgrade: websocket\nContent-Length: 0\n\n",
            client_gets: &["HTTP/1.1 426", "sec-websocket-version: 13\r\n", "upgrade: websocket\r\n"],
            ..row("6455 4.4", "the versions that a server speaks reach the client")
        },
        Row {
            request: "GET @ HTTP/1.1\nHost: HOST\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
            response: "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: other\n\n",
            client_gets: &["HTTP/1.1 502", "app_failed"],
            ..row("6455 4.1", "a 101 for another protocol opens no WebSocket")
        },
    ]
}

fn check(row: &str, side: &str, text: &str, parts: &[&str]) {
    for part in parts {
        match part.strip_prefix('!') {
            Some(absent) => assert!(!text.contains(absent), "{row}: {side} gets {absent:?}: {text}"),
            None => assert!(text.contains(part), "{row}: {side} lacks {part:?}: {text}"),
        }
    }
}

fn wire(text: &str) -> String {
    text.replace('\n', "\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn requirements_on_http1_and_websockets() {
    let rows = rows();
    for (number, row) in rows.iter().enumerate() {
        let name = format!("row {number}, RFC {}: {}: {:?}", row.section, row.requirement, row.verdict);
        let response = wire(row.response);
        let (world, app) = fresh(response).await;
        let request = wire(row.request).replace('@', "/row").replace("HOST", HOST);
        let answer = soon(&name, raw_text(world.edge, &request)).await;
        let heads: Vec<String> = app.heads.lock().unwrap().iter().map(|(_, head)| head.clone()).collect();
        assert_eq!(heads.is_empty(), row.app_gets.is_empty(), "{name}: {heads:?} {answer}");
        check(&name, "the app", &heads.concat(), row.app_gets);
        check(&name, "the client", &answer, row.client_gets);
        if let Otherwise(reason) = row.verdict {
            assert!(!reason.is_empty(), "{name}: no reason");
        }
    }
}

async fn fresh(response: String) -> (World, Scripted) {
    World::scripted(Limits::default(), NEVER_IDLE, move |_| response.clone().into_bytes()).await
}

/// Requirement on HTTP/2, with the fields of a request and what an app answers.
struct Row2 {
    section: &'static str,
    requirement: &'static str,
    verdict: Verdict,
    fields: &'static [(&'static str, &'static str)],
    response: &'static str,
    app_gets: &'static [&'static str],
    client_gets: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread")]
async fn requirements_on_http2() {
    let rows = [
        Row2 {
            section: "9113 8.2.3",
            requirement: "MUST join cookie fields before HTTP/1",
            verdict: Kept,
            fields: &[("cookie", "a=b"), ("cookie", "c=d")],
            response: OK,
            app_gets: &["\r\ncookie: a=b; c=d\r\n"],
            client_gets: &[":status: 200\n"],
        },
        Row2 {
            section: "9113 8.3.1",
            requirement: "MUST make Host of :authority",
            verdict: Kept,
            fields: &[],
            response: OK,
            app_gets: &[
                "GET /row HTTP/1.1\r\n",
                "\r\nhost: web.rigbox.localhost:7080\r\n",
                "via: 2.0 rigbox\r\n",
            ],
            client_gets: &[":status: 200\n"],
        },
        Row2 {
            section: "9113 8.3.1",
            requirement: "a Host that differs from :authority SHOULD be taken for malformed",
            verdict: Kept,
            fields: &[("host", "other.example")],
            response: OK,
            app_gets: &[],
            client_gets: &[":status: 400\n"],
        },
        Row2 {
            section: "9113 8.2.2",
            requirement: "MUST NOT send connection-specific fields",
            verdict: Kept,
            fields: &[("te", "trailers")],
            response: "HTTP/1.1 200 OK\nConnection: X-Hop\nX-Hop: y\nKeep-Alive: timeout=5\nProxy-Connection: x\n\
                       Transfer-Encoding: chunked\n\n2\nok\n0\n\n",
            app_gets: &["!te: "],
            client_gets: &[":status: 200\n", "!connection", "!keep-alive", "!transfer-encoding", "!x-hop"],
        },
        Row2 {
            section: "9113 8.2.2",
            requirement: "426 has no Upgrade, which HTTP/2 does not have",
            verdict: Kept,
            fields: &[],
            response: "HTTP/1.1 426 Upgrade Required\nUpgrade: other\nConnection: upgrade\nContent-Length: 0\n\n",
            app_gets: &["GET "],
            client_gets: &[":status: 426\n", "!upgrade"],
        },
        Row2 {
            section: "9113 8.6",
            requirement: "101 does not exist in HTTP/2",
            verdict: Kept,
            fields: &[],
            response: "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: other\n\n",
            app_gets: &["GET "],
            client_gets: &[":status: 502\n"],
        },
        Row2 {
            section: "9110 10.1.1",
            requirement: "MUST forward the expectation of 100 (Continue)",
            verdict: Otherwise(
                "the HTTP library cannot send a 100 in HTTP/2; clients wait a second, and send the body then",
            ),
            fields: &[("expect", "100-continue")],
            response: OK,
            app_gets: &["!expect"],
            client_gets: &[":status: 200\n"],
        },
    ];
    for (number, row) in rows.iter().enumerate() {
        let name = format!("row {number}, RFC {}: {}: {:?}", row.section, row.requirement, row.verdict);
        let (world, app) = fresh(wire(row.response)).await;
        let mut client = http2::connect(world.edge).await;
        let mut request = Request::get(format!("{ORIGIN}/row")).version(Version::HTTP_2);
        for (field, value) in row.fields {
            request = request.header(*field, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = soon(&name, client.send_request(request)).await.unwrap();
        let mut answer = format!(":status: {}\n", response.status().as_u16());
        for (field, value) in response.headers() {
            answer.push_str(&format!("{field}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        soon(&name, response.into_body().collect()).await.unwrap();
        let heads: Vec<String> = app.heads.lock().unwrap().iter().map(|(_, head)| head.clone()).collect();
        assert_eq!(heads.is_empty(), row.app_gets.is_empty(), "{name}: {heads:?} {answer}");
        check(&name, "the app", &heads.concat(), row.app_gets);
        check(&name, "the client", &answer, row.client_gets);
    }
}
