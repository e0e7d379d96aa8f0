//! WebSockets of the API, opened with the client of all other requests, so that certificates, key and errors are the same.

use reqwest::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, StatusCode, Upgraded};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Api, ApiError};

pub(crate) type Socket = WebSocketStream<Upgraded>;

impl Api {
    /// Opens a WebSocket. Returns the headers of the response too.
    pub(crate) async fn websocket(&self, path: &[&str]) -> Result<(Socket, HeaderMap), ApiError> {
        let key = generate_key();
        let request = self
            .request(Method::GET, path, &[])?
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = self.open(request).await?;
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            || accepted != Some(derive_accept_key(key.as_bytes()).as_bytes())
        {
            let message = "the server, or a proxy before it, does not support WebSockets".to_owned();
            return Err(ApiError::Unexpected { message });
        }
        let headers = response.headers().clone();
        let upgraded = response.upgrade().await.map_err(|error| self.unreachable(&error))?;
        Ok((WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await, headers))
    }
}
