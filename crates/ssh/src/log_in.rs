//! Log-in of a client, by a public key only. Each refusal is the same, whatever was wrong.

use std::net::IpAddr;
use std::time::Duration;

use rigbox_proto::ssh::LogInRequest;
use rigbox_shares::AddressBlock;
use rigbox_ssh_keys::log_in::CONNECTION;
use rigbox_ssh_keys::signature::ALGORITHMS;
use rigbox_ssh_keys::wire::Malformed;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::authentication::{self, LogIn, Method, USERAUTH};
use crate::connection::{Connection, Error};
use crate::control::LogInOutcome;
use crate::disconnect::{NO_MORE_METHODS, PROTOCOL_ERROR, SERVICE_NOT_AVAILABLE};
use crate::log_in_end::{Admission, LogInEnd, Starting, ended};
use crate::session_record::SessionRecord;
use crate::state::Gateway;

/// Maximum number of requests of one connection: a client may have many keys to offer.
const MAX_REQUESTS: u32 = 64;
/// Maximum number of log-ins of one connection that are refused after a signature, or by another method than a key.
const MAX_REFUSALS: u32 = 6;
/// Maximum length of a user name.
const MAX_USER_NAME_LEN: usize = 128;
/// Steps of the time after which a key is refused: as fast as the next step allows, whatever control has found on the way.
const REFUSAL_STEP: Duration = Duration::from_millis(25);

/// Answer to one request.
enum Answer {
    /// The key is registered.
    Accepted(Vec<u8>),
    /// Question for the methods that there are.
    Methods,
    /// A key that was only offered.
    NotThisKey,
    Refused,
    End(LogInEnd),
}

/// Accepts a log-in.
///
/// # Errors
/// [`Error`], if the connection fails or the client breaks the protocol.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    client: &mut Connection<S>,
    address: IpAddr,
    record: &mut SessionRecord,
) -> Result<LogInEnd, Error> {
    let mut tried = Tried::default();
    let end = negotiate(gateway, client, address, record, &mut tried).await;
    let is_open = matches!(end, Ok(LogInEnd::Starting(_) | LogInEnd::Decided(Admission::Granted(_))));
    // A connection without a request is no log-in.
    if let (false, Some(user)) = (is_open, tried.user) {
        tracing::info!(client = %address, ?user, refusals = tried.refusals, "a client has not logged in");
    }
    end
}

/// Attempts of one connection, for the operator's log.
#[derive(Default)]
struct Tried {
    /// User name of the last one.
    user: Option<String>,
    refusals: u32,
}

async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    client: &mut Connection<S>,
    address: IpAddr,
    record: &mut SessionRecord,
    tried: &mut Tried,
) -> Result<LogInEnd, Error> {
    let message = client.receive().await?;
    if authentication::requested_service(&message).map_err(malformed)? != Some(USERAUTH) {
        return Ok(ended(SERVICE_NOT_AVAILABLE, "Only log-ins come first.").into());
    }
    client.send(&authentication::service_accept(USERAUTH)).await?;
    let mut refusals = 0;
    for _ in 0..MAX_REQUESTS {
        let message = client.receive().await?;
        // Some clients ask for it before each key again.
        if authentication::requested_service(&message).map_err(malformed)? == Some(USERAUTH) {
            client.send(&authentication::service_accept(USERAUTH)).await?;
            continue;
        }
        let Some(request) = authentication::log_in(&message).map_err(malformed)? else {
            return Ok(ended(PROTOCOL_ERROR, "A log-in was expected.").into());
        };
        tried.user = Some(request.user.chars().take(MAX_USER_NAME_LEN).collect());
        let session_id = client.session_id().ok_or(Error::Unexpected)?.to_vec();
        let begin = Instant::now();
        let refused = match answer(gateway, &session_id, request, address, record).await {
            Answer::Accepted(message) => {
                client.send(&message).await?;
                continue;
            }
            Answer::Methods => {
                client.send(&authentication::refused()).await?;
                continue;
            }
            Answer::End(end) => return Ok(end),
            Answer::NotThisKey => 0,
            Answer::Refused => 1,
        };
        tried.refusals += 1;
        // By its time, a refusal would tell who is known.
        tokio::time::sleep_until(begin + next_step(begin.elapsed())).await;
        refusals += refused;
        if refusals >= MAX_REFUSALS {
            break;
        }
        client.send(&authentication::refused()).await?;
    }
    Ok(ended(NO_MORE_METHODS, "Too many log-ins were refused.").into())
}

async fn answer(
    gateway: &Gateway,
    session_id: &[u8],
    request: LogIn<'_>,
    client: IpAddr,
    record: &mut SessionRecord,
) -> Answer {
    let LogIn { user, service, method } = request;
    let Method::PublicKey { algorithm, key, signature } = method else {
        // Every client asks by `none` for the methods that there are.
        let is_question = matches!(method, Method::Other("none"));
        return if is_question { Answer::Methods } else { refused(gateway, user, client) };
    };
    if service != CONNECTION || user.len() > MAX_USER_NAME_LEN {
        return refused(gateway, user, client);
    }
    // Such a key would be refused after its owner has signed.
    if !ALGORITHMS.contains(&algorithm) {
        return if signature.is_none() { Answer::NotThisKey } else { refused(gateway, user, client) };
    }
    let (address, name) = (AddressBlock::from(client), user.to_owned());
    if !gateway.by_address.may_try(&address) || !gateway.by_name.may_try(&(address, name.clone())) {
        let end = ended(NO_MORE_METHODS, "Too many log-ins were refused. Try again in a minute.");
        return Answer::End(end.into());
    }
    let Some(signature) = signature else {
        return match gateway.control.accepts(client, key).await {
            Ok(true) => Answer::Accepted(authentication::key_accepted(algorithm, key)),
            Ok(false) => Answer::NotThisKey,
            Err(error) => Answer::End(unavailable(&error).into()),
        };
    };
    let request = LogInRequest {
        session_id: session_id.to_vec().into(),
        user_name: name,
        algorithm: algorithm.to_owned(),
        key: key.to_vec().into(),
        signature: signature.to_vec().into(),
        client_address: client.to_string(),
        may_start: true,
        gateway_id: gateway.control.own_id().to_string(),
    };
    match record.open(request.clone()).await {
        Ok(LogInOutcome::Granted(session)) => Answer::End(Admission::Granted(session).into()),
        Ok(LogInOutcome::Starting(workspace, text)) => {
            Answer::End(LogInEnd::Starting(Starting { workspace, text, request: Box::new(request) }))
        }
        Ok(LogInOutcome::Unavailable(text)) => Answer::End(ended(SERVICE_NOT_AVAILABLE, &text).into()),
        Ok(LogInOutcome::Refused) => refused(gateway, user, client),
        Err(error) => Answer::End(unavailable(&error).into()),
    }
}

/// Returns the first step that is not before `elapsed`.
fn next_step(elapsed: Duration) -> Duration {
    let steps = elapsed.as_nanos().div_ceil(REFUSAL_STEP.as_nanos()).max(1);
    REFUSAL_STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

/// Counts a refusal.
fn refused(gateway: &Gateway, user: &str, client: IpAddr) -> Answer {
    gateway.by_address.failed(client.into());
    if user.len() <= MAX_USER_NAME_LEN {
        gateway.by_name.failed((client.into(), user.to_owned()));
    }
    Answer::Refused
}

fn unavailable(error: &crate::control::ControlError) -> Admission {
    tracing::warn!(%error, "a log-in could not be decided");
    ended(SERVICE_NOT_AVAILABLE, "Rigbox cannot verify your access at the moment. Try again.")
}

fn malformed(_: Malformed) -> Error {
    crate::transport::Error::Malformed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_end_at_steps() {
        let step = |ms| next_step(Duration::from_millis(ms)).as_millis();
        assert_eq!([0, 1, 25, 26, 60].map(step), [25, 25, 25, 50, 75]);
    }
}
