//! One request to the ledger of AI calls, on a stream of its own.

use rigbox_proto::ai::ai_client::AiClient;
use rigbox_proto::ai::ledger_request::Request;
use rigbox_proto::ai::ledger_response::Response;
use rigbox_proto::ai::{LedgerRequest, LedgerRequests, LedgerResponse};
use rigbox_proto::transport::client::Channel;

/// Asks, and returns the response.
pub(crate) async fn ask(proxy: &mut AiClient<Channel>, request: Request) -> Response {
    let request = LedgerRequest { number: 7, request: Some(request) };
    let requests = tokio_stream::iter([LedgerRequests { requests: vec![request] }]);
    let mut responses = proxy.ledger(requests).await.unwrap().into_inner();
    let message = responses.message().await.unwrap().unwrap();
    assert!(responses.message().await.unwrap().is_none(), "the stream ends with its last response");
    let [LedgerResponse { number: 7, response: Some(response) }] = &message.responses[..] else {
        panic!("{message:?}")
    };
    response.clone()
}
