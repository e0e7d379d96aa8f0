//! Requests that are finished once begun. A change runs in a task of its own, which the connection only awaits: a client that goes away does
//! not leave it half done. A panic is the request's own failure.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use crate::error::ApiError;

/// Serves a request. One that changes nothing ends with its client.
pub(crate) async fn run(request: Request, next: Next) -> Response {
    let is_safe = request.method().is_safe();
    let served = AssertUnwindSafe(next.run(request)).catch_unwind();
    if is_safe {
        return served.await.unwrap_or_else(failed);
    }
    match tokio::spawn(served).await {
        Ok(served) => served.unwrap_or_else(failed),
        // The runtime ends.
        Err(error) => ApiError::internal(&error).into_response(),
    }
}

/// Returns the response to a request whose handler has panicked. The panic's message is on standard error.
fn failed(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal(&"the handler panicked").into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;

    async fn serve(router: Router) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router.layer(axum::middleware::from_fn(run));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        TcpStream::connect(address).await.unwrap()
    }

    #[tokio::test]
    async fn change_is_finished_after_its_client_has_gone() {
        let (begun, go_on, done) =
            (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let steps = (Arc::clone(&begun), Arc::clone(&go_on), Arc::clone(&done));
        let handler = move || {
            let (begun, go_on, done) = steps.clone();
            async move {
                begun.notify_one();
                go_on.notified().await;
                done.notify_one();
            }
        };
        let mut client = serve(Router::new().route("/", post(handler))).await;
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        begun.notified().await;
        client.set_zero_linger().unwrap();
        drop(client);
        // Time in which the server notices, and would give up.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        go_on.notify_one();
        tokio::time::timeout(std::time::Duration::from_secs(10), done.notified()).await.unwrap();
    }

    #[tokio::test]
    async fn panic_is_a_failure_of_its_request() {
        let panics = || async {
            if true {
                panic!("deliberate")
            }
        };
        for method in ["POST", "GET"] {
            let mut client = serve(Router::new().route("/", post(panics).get(panics))).await;
            let request =
                format!("{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            client.read_to_string(&mut response).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 500"), "{response}");
        }
    }
}
