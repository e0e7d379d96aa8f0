//! The whole decision table: every visibility, caller, kind of request and initiator.

use super::*;

fn app(visibility: Visibility) -> AppPolicy {
    AppPolicy {
        id: AppId::from_random([1; 5]),
        workspace: WorkspaceId::from_random([1; 5]),
        owner: UserId::from_random([1; 5]),
        visibility,
        shared_with: vec!["friend@example.org".to_owned()],
    }
}

const OWNER: u8 = 1;
const FRIEND: u8 = 2;
const STRANGER: u8 = 3;

fn user(n: u8, source: CredentialSource) -> AppUser {
    let email = ["", "owner@example.org", "friend@example.org", "stranger@example.org"];
    AppUser {
        id: UserId::from_random([n; 5]),
        email: email[usize::from(n)].to_owned(),
        email_verified: true,
        in_scope: true,
        source,
    }
}

/// Expected outcome for one visibility.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// Forwarded with the user's identity.
    Identified,
    /// Forwarded without an identity.
    Unidentified,
    Refused(Refusal),
}

#[test]
fn every_row_of_the_access_table_holds() {
    use Outcome::{Identified, Refused, Unidentified};
    use Refusal::{
        CrossSite, InvalidCredential, MissingCredential, NotAllowed, PreflightAllowed, PreflightDenied,
        SignIn,
    };

    let kinds = [
        RequestKind::Navigation,
        RequestKind::WebSocket,
        RequestKind::Preflight { listed: true },
        RequestKind::Preflight { listed: false },
        RequestKind::Other,
    ];
    let mut callers = vec![Caller::Anonymous, Caller::Invalid, Caller::Workspace];
    for n in [OWNER, FRIEND, STRANGER] {
        for source in [CredentialSource::Header, CredentialSource::Cookie] {
            for (email_verified, in_scope) in [(true, true), (true, false), (false, true), (false, false)] {
                callers.push(Caller::User(AppUser { email_verified, in_scope, ..user(n, source) }));
            }
        }
    }
    let mut rows = 0;
    for caller in &callers {
        for kind in kinds {
            for initiator in [Initiator::SameOrigin, Initiator::CrossOrigin] {
                // A cookie is valid for navigations and for requests of the app's own pages.
                let cross_site =
                    matches!(caller, Caller::User(AppUser { source: CredentialSource::Cookie, .. }))
                        && kind != RequestKind::Navigation
                        && initiator == Initiator::CrossOrigin;
                let allowed = if cross_site { Refused(CrossSite) } else { Identified };
                let (private, privileged) = match (kind, caller) {
                    (RequestKind::Preflight { listed: true }, _) => {
                        (Refused(PreflightAllowed), Refused(PreflightAllowed))
                    }
                    (RequestKind::Preflight { listed: false }, _) => {
                        (Refused(PreflightDenied), Refused(PreflightDenied))
                    }
                    (RequestKind::Navigation, Caller::Anonymous) => (Refused(SignIn), Refused(SignIn)),
                    (_, Caller::Anonymous) => (Refused(MissingCredential), Refused(MissingCredential)),
                    (_, Caller::Invalid | Caller::Workspace) => {
                        (Refused(InvalidCredential), Refused(InvalidCredential))
                    }
                    (_, Caller::User(user)) if !user.in_scope => (Refused(NotAllowed), Refused(NotAllowed)),
                    (_, Caller::User(user)) if user.email == "owner@example.org" => (allowed, allowed),
                    (_, Caller::User(user)) if user.email == "friend@example.org" && user.email_verified => {
                        (Refused(NotAllowed), allowed)
                    }
                    (_, Caller::User(_)) => (Refused(NotAllowed), Refused(NotAllowed)),
                };
                let public = match caller {
                    Caller::User(user) if user.in_scope && !cross_site => Identified,
                    _ => Unidentified,
                };
                for (visibility, expected) in [
                    (Visibility::Private, private),
                    (Visibility::Privileged, privileged),
                    (Visibility::Public, public),
                ] {
                    let outcome = match decide(&app(visibility), caller, kind, initiator) {
                        Ok(permit) => {
                            assert_eq!(permit.workspace(), &WorkspaceId::from_random([1; 5]));
                            if permit.user().is_some() { Identified } else { Unidentified }
                        }
                        Err(refusal) => Refused(refusal),
                    };
                    assert_eq!(outcome, expected, "{visibility}, {caller:?}, {kind:?}, {initiator:?}");
                    rows += 1;
                }
            }
        }
    }
    assert_eq!(rows, callers.len() * kinds.len() * 2 * 3);
}

#[test]
fn visibilities_round_trip() {
    for visibility in Visibility::ALL {
        assert_eq!(visibility.as_str().parse(), Ok(visibility));
    }
    assert!("Public".parse::<Visibility>().is_err());
}

#[test]
fn change_that_admits_more_people_widens() {
    use Visibility::{Private, Privileged, Public};
    let (none, one, two) = (vec![], vec!["a@b.c".to_owned()], vec!["a@b.c".to_owned(), "d@e.f".to_owned()]);
    for (before, after, wider) in [
        ((Private, &none), (Private, &two), false),
        ((Private, &none), (Privileged, &none), true),
        ((Private, &none), (Public, &none), true),
        ((Privileged, &two), (Privileged, &one), false),
        ((Privileged, &one), (Privileged, &two), true),
        ((Privileged, &one), (Private, &one), false),
        ((Privileged, &one), (Public, &one), true),
        ((Public, &none), (Privileged, &two), false),
        ((Public, &none), (Public, &two), false),
    ] {
        assert_eq!(
            widens_visibility((before.0, before.1), (after.0, after.1)),
            wider,
            "{before:?} {after:?}"
        );
    }
}
