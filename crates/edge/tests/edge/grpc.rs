//! gRPC and HTTP/2, from client to app.

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rigbox_proto::gateway::changes_client::ChangesClient;
use rigbox_proto::gateway::changes_server::ChangesServer;
use rigbox_proto::gateway::gateway_client::GatewayClient;
use rigbox_proto::gateway::gateway_server::GatewayServer;
use rigbox_proto::gateway::{ResolveRequest, Visibility, WatchAck};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::support::{BOOT, HOST, ORIGIN, PORT, WORKSPACE, World, http2, soon};
use rigbox_testkit::gateway::shown;

#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes_with_its_trailers_and_streams() {
    let world = World::new().await;
    // Any gRPC service will do as an app.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.node.listens(WORKSPACE, BOOT, PORT, listener.local_addr().unwrap());
    let service = GatewayServer::new(world.gateway.clone());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .add_service(ChangesServer::new(world.gateway.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let edge = world.edge;
    let endpoint = Endpoint::try_from(format!("http://{HOST}:7080")).unwrap();
    let connector =
        tower::service_fn(
            move |_: http::Uri| async move { TcpStream::connect(edge).await.map(TokioIo::new) },
        );
    #[expect(clippy::disallowed_methods, reason = "the peer is a server of this test")]
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let key: tonic::metadata::MetadataValue<_> = shown("key", "owner").parse().unwrap();
    let with_key = move |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("x-rigbox-key", key.clone());
        Ok(request)
    };
    let mut client = GatewayClient::with_interceptor(channel.clone(), with_key.clone());
    let mut changes = ChangesClient::with_interceptor(channel.clone(), with_key);
    let found = client.resolve(ResolveRequest { host: HOST.to_owned() }).await.unwrap();
    assert_eq!(found.into_inner().app_name, "web");
    // A status in trailers.
    let status = client.resolve(ResolveRequest { host: "nothing".to_owned() }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no app"));
    // Streams in both directions.
    #[expect(clippy::disallowed_methods, reason = "of one test")]
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let acknowledged = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut notices = changes.watch(acknowledged).await.unwrap().into_inner();
    for _ in 0..3 {
        let notice = soon("an event", notices.next()).await.unwrap().unwrap();
        send.send(WatchAck { sequence: notice.sequence }).await.unwrap();
    }
    // Without a credential nothing reaches the app.
    let status =
        GatewayClient::new(channel).resolve(ResolveRequest { host: HOST.to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    world.gateway.table().identities.remove(&shown("key", "owner"));
    world.gateway.grants_changed().await;
    let ended = soon("the stream ends", async {
        loop {
            match notices.next().await {
                Some(Ok(_)) => {}
                other => return other.is_none_or(|last| last.is_err()),
            }
        }
    });
    assert!(ended.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_with_clients_and_http1_with_apps() {
    let world = World::new().await;
    world.app(Visibility::Public);
    let mut client = http2::connect(world.edge).await;
    let ask = |method: Method, uri: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client.send_request(request.body(Empty::<Bytes>::new()).unwrap())
    };
    let mut ask = ask;
    let uri = format!("{ORIGIN}/a?b=c");
    let response =
        soon("a response", ask(Method::GET, &uri, &[("cookie", "a=b"), ("cookie", "c=d")])).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(body.starts_with("GET /a?b=c\n") && body.contains("host: web.rigbox.localhost:7080\n"), "{body}");
    // An HTTP/1 app gets its cookies in one line.
    assert!(body.contains("\ncookie: a=b; c=d\n"), "{body}");
    // Both names of the host have to agree.
    let response = soon("a response", ask(Method::GET, &uri, &[("host", "evil.example")])).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    // Many at once, one of which hangs.
    let hanging = ask(Method::GET, &format!("{ORIGIN}/hang"), &[]);
    let many: Vec<_> = (0..100).map(|_| ask(Method::GET, &uri, &[])).collect();
    for one in many {
        assert_eq!(soon("each of many", one).await.unwrap().status().as_u16(), 200);
    }
    drop(hanging);
}
