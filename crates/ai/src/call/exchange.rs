//! The exchange with a provider, by one key after the other.

use http::Response;
use hyper::body::Incoming;
use rigbox_proto::ai::Ending;

use super::outgoing::request;
use super::prepare::Prepared;
use crate::error::{CallError, ErrorKind};
use crate::setup::Key;
use crate::state::State;
use crate::upstream::{chain, is_of_proxy};

/// Call that got no response.
pub(super) struct Failed {
    pub(super) error: CallError,
    pub(super) ending: Ending,
    pub(super) key_id: String,
}

/// Sends a call, with one key after the other where a provider does not take one.
pub(super) async fn exchange(
    state: &State,
    prepared: &Prepared,
) -> Result<(Response<Incoming>, Key), Failed> {
    let not_sent = |text: &str| Failed {
        error: CallError::new(ErrorKind::Unavailable, text),
        ending: Ending::NotSent,
        key_id: String::new(),
    };
    let Prepared { arrived, terms, .. } = prepared;
    let upstream = &terms.upstream;
    // The user's own key is the only one, and its provider's refusal is the user's to read.
    let own = terms.own_key.clone();
    let is_own = own.is_some();
    let keys = match own {
        Some(key) => vec![key],
        None => state.upstreams.keys(&arrived.workspace, upstream, prepared.is_tied),
    };
    let last = keys.len().saturating_sub(1);
    for (index, key) in keys.into_iter().enumerate() {
        let request = request(arrived, &arrived.call, prepared.body.clone(), upstream, &key)
            .map_err(|_| not_sent("The provider's address is not valid."))?;
        let sending = async {
            if is_own {
                state.upstreams.send_once(request).await
            } else {
                state.upstreams.send(&arrived.workspace, request).await
            }
        };
        let sent = tokio::time::timeout(state.limits.first_byte, sending).await;
        let failed = |kind, text: &str, ending| {
            Err(Failed { error: CallError::new(kind, text), ending, key_id: key.id.clone() })
        };
        match sent {
            Err(_) => {
                return failed(
                    ErrorKind::UpstreamTimeout,
                    "The provider did not answer in time.",
                    Ending::CutOff,
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(call = arrived.form.call_id, upstream = upstream.name, error = %chain(&error), "a provider was not reached");
                let ending = if error.is_connect() { Ending::NotSent } else { Ending::CutOff };
                // Where the proxy is, is nobody's business in a VM.
                let text = if is_of_proxy(&error) {
                    "The operator's proxy made no connection to the provider."
                } else {
                    "The provider was not reached, or broke off."
                };
                return failed(ErrorKind::Upstream, text, ending);
            }
            Ok(Ok(response)) => {
                if is_own {
                    return Ok((response, key));
                }
                let is_taken = !state.upstreams.rest(&key, &response);
                if is_taken {
                    state.upstreams.remember(&arrived.workspace, upstream, &key);
                }
                if is_taken || index == last {
                    return Ok((response, key));
                }
            }
        }
    }
    Err(not_sent("The operator has set no key for this provider."))
}
