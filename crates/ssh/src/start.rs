//! Wait for a workspace that starts because its owner connects. The log-in counts when it runs.

use std::time::Duration;

use rigbox_proto::ssh::LogInRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::authentication;
use crate::connection::{Connection, Error};
use crate::control::LogInOutcome;
use crate::disconnect::{NO_MORE_METHODS, SERVICE_NOT_AVAILABLE};
use crate::log_in_end::{Admission, Starting, ended};
use crate::session_record::SessionRecord;

/// Time in which a workspace has to run.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval at which control is asked again.
const INTERVAL: Duration = Duration::from_millis(500);

/// Waits until the workspace runs, or will not, and tells the client what it waits for.
///
/// # Errors
/// [`Error`], if the connection fails or the client does not wait.
pub(crate) async fn wait<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Connection<S>,
    starting: Starting,
    record: &mut SessionRecord,
) -> Result<Admission, Error> {
    let Starting { mut text, mut request, .. } = starting;
    request.may_start = false;
    let deadline = Instant::now() + START_TIMEOUT;
    let mut told = String::new();
    while Instant::now() < deadline {
        if text != told {
            client.send(&authentication::banner(&format!("{text}\r\n"))).await?;
            told.clone_from(&text);
        }
        tokio::select! {
            // A client that waits has nothing to say.
            said = client.receive() => return Err(said.err().unwrap_or(Error::Unexpected)),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match record.open(LogInRequest::clone(&request)).await {
            Ok(LogInOutcome::Granted(session)) => return Ok(Admission::Granted(session)),
            Ok(LogInOutcome::Starting(_, now)) => text = now,
            Ok(LogInOutcome::Unavailable(why)) => return Ok(ended(SERVICE_NOT_AVAILABLE, &why)),
            Ok(LogInOutcome::Refused) => {
                return Ok(ended(NO_MORE_METHODS, "Your access to this workspace has ended."));
            }
            // It may be back in time.
            Err(error) => tracing::debug!(%error, "waiting for control"),
        }
    }
    Ok(ended(SERVICE_NOT_AVAILABLE, "The workspace did not start in time. Try again."))
}
