//! The decision: control identifies the caller, and the table in `rigbox_core::app_access` says whether the caller has access.

use std::sync::Arc;

use rigbox_core::app_access::{AppPermit, Caller, Refusal, decide};
use rigbox_gateway::active_grants::EndReason;

use crate::decision::access_request::{AccessRequest, Decision};
use crate::decision::control::{Asker, Control, ControlError};
use crate::decision::route::{Identity, Route};

/// Access to an app.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) permit: AppPermit,
    pub(crate) identity: Option<Arc<Identity>>,
}

/// Reason that a request does not get access.
#[derive(Debug)]
pub(crate) enum AccessError {
    Refused(Refusal),
    Control(ControlError),
}

/// Decides whether a request to `route` gets access.
pub(crate) async fn authorize(
    control: &Control,
    route: &Route,
    request: &AccessRequest,
    asker: Asker<'_>,
) -> Result<Access, AccessError> {
    let identity = match &request.credential {
        None => None,
        Some(credential) => {
            let identity = control.identity(credential, route.app.id.as_str(), asker).await;
            Some(identity.map_err(AccessError::Control)?)
        }
    };
    let caller = identity.as_ref().map_or(&Caller::Anonymous, |identity| &identity.caller);
    let permit = decide(&route.app, caller, request.kind, request.initiator).map_err(AccessError::Refused)?;
    Ok(Access { permit, identity })
}

/// Makes a decision again, for an active grant.
///
/// # Errors
/// The reason to end the grant: the request would not get access now, or not to this VM.
pub(crate) async fn reauthorize(control: &Control, decision: &Decision) -> Result<(), EndReason> {
    let Decision { request, route, identity_forwarded } = decision;
    let asker = Asker::Review(&route.app.workspace);
    let current = control.route(&route.host, asker).await.map_err(|_| EndReason::LeaseLapsed)?;
    let current = current.ok_or(EndReason::UpstreamGone)?;
    if current.app.id != route.app.id || current.upstream() != route.upstream() {
        return Err(EndReason::UpstreamGone);
    }
    let access = authorize(control, &current, request, asker).await.map_err(|error| match error {
        AccessError::Refused(_) => EndReason::Revoked,
        AccessError::Control(_) => EndReason::LeaseLapsed,
    })?;
    // The app knows the user, and what it does for that user ends with the credential, on a public app too.
    if *identity_forwarded && access.permit.user().is_none() { Err(EndReason::Revoked) } else { Ok(()) }
}
