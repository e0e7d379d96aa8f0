//! The decision: who asks is asked of control, and the table in `rigbox_core::app_access` says what that opens.

use std::sync::Arc;

use rigbox_core::app_access::{AppPermit, Caller, Refusal, decide};

use crate::control::{Control, ControlError};
use crate::exchange::{Asked, Ended, Exchange};
use crate::route::{Identity, Route};

/// A request may go on.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) permit: AppPermit,
    pub(crate) identity: Option<Arc<Identity>>,
}

/// A request may not go on.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    Refused(Refusal),
    Control(ControlError),
}

/// Whether a request to `route` may go on.
pub(crate) async fn admit(control: &Control, route: &Route, asked: &Asked) -> Result<Admitted, NotAdmitted> {
    let identity = match &asked.credential {
        None => None,
        Some(credential) => {
            let identity = control.identity(credential, route.app.id.as_str()).await;
            Some(identity.map_err(NotAdmitted::Control)?)
        }
    };
    let caller = identity.as_ref().map_or(&Caller::Anonymous, |identity| &identity.caller);
    let permit = decide(&route.app, caller, asked.kind, asked.source).map_err(NotAdmitted::Refused)?;
    Ok(Admitted { permit, identity })
}

/// Looks at an exchange under way again, and ends it if it would not be begun now, or not with this VM.
pub(crate) async fn review(control: &Control, exchange: &Exchange) {
    if let Err(why) = still_holds(control, exchange).await {
        exchange.end(why);
    }
}

async fn still_holds(control: &Control, exchange: &Exchange) -> Result<(), Ended> {
    let route = control.route(&exchange.route.host).await.map_err(|_| Ended::Unknown)?.ok_or(Ended::Gone)?;
    if route.app.id != exchange.route.app.id || route.upstream() != exchange.route.upstream() {
        return Err(Ended::Gone);
    }
    let admitted = admit(control, &route, &exchange.asked).await.map_err(|refused| match refused {
        NotAdmitted::Refused(_) => Ended::Forbidden,
        NotAdmitted::Control(_) => Ended::Unknown,
    })?;
    // The app was told of a user, and what it does for that user ends with the credential; on a public app too.
    if exchange.told && admitted.permit.user().is_none() { Err(Ended::Forbidden) } else { Ok(()) }
}
