//! The whole table: every visibility, caller, kind of request and source.

use super::*;

fn app(visibility: Visibility) -> App {
    App {
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

fn user(n: u8, by: By) -> User {
    let email = ["", "owner@example.org", "friend@example.org", "stranger@example.org"];
    User {
        id: UserId::from_random([n; 5]),
        email: email[usize::from(n)].to_owned(),
        email_verified: true,
        in_scope: true,
        by,
    }
}

/// What a row of the table says about one visibility.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    /// Forwarded, and the app is told who.
    Known,
    /// Forwarded, and the app is told of nobody.
    Nameless,
    Not(Refusal),
}

#[test]
fn the_table_of_who_may_see_an_app() {
    use Refusal::{
        BadCredential, ForeignSite, NoCredential, NotAllowed, PreflightAllowed, PreflightRefused, SignIn,
    };
    use Says::{Known, Nameless, Not};

    let kinds = [
        Kind::Navigation,
        Kind::WebSocket,
        Kind::Preflight { listed: true },
        Kind::Preflight { listed: false },
        Kind::Other,
    ];
    let mut callers = vec![Caller::Nobody, Caller::Invalid, Caller::Workspace];
    for n in [OWNER, FRIEND, STRANGER] {
        for by in [By::Key, By::Cookie] {
            for (email_verified, in_scope) in [(true, true), (true, false), (false, true), (false, false)] {
                callers.push(Caller::User(User { email_verified, in_scope, ..user(n, by) }));
            }
        }
    }
    let mut rows = 0;
    for caller in &callers {
        for kind in kinds {
            for source in [Source::Own, Source::Other] {
                // A cookie counts for a navigation, and for what the app's own pages ask.
                let foreign = matches!(caller, Caller::User(User { by: By::Cookie, .. }))
                    && kind != Kind::Navigation
                    && source == Source::Other;
                let allowed = if foreign { Not(ForeignSite) } else { Known };
                let (private, privileged) = match (kind, caller) {
                    (Kind::Preflight { listed: true }, _) => (Not(PreflightAllowed), Not(PreflightAllowed)),
                    (Kind::Preflight { listed: false }, _) => (Not(PreflightRefused), Not(PreflightRefused)),
                    (Kind::Navigation, Caller::Nobody) => (Not(SignIn), Not(SignIn)),
                    (_, Caller::Nobody) => (Not(NoCredential), Not(NoCredential)),
                    (_, Caller::Invalid | Caller::Workspace) => (Not(BadCredential), Not(BadCredential)),
                    (_, Caller::User(user)) if !user.in_scope => (Not(NotAllowed), Not(NotAllowed)),
                    (_, Caller::User(user)) if user.email == "owner@example.org" => (allowed, allowed),
                    (_, Caller::User(user)) if user.email == "friend@example.org" && user.email_verified => {
                        (Not(NotAllowed), allowed)
                    }
                    (_, Caller::User(_)) => (Not(NotAllowed), Not(NotAllowed)),
                };
                let public = match caller {
                    Caller::User(user) if user.in_scope && !foreign => Known,
                    _ => Nameless,
                };
                for (visibility, expected) in [
                    (Visibility::Private, private),
                    (Visibility::Privileged, privileged),
                    (Visibility::Public, public),
                ] {
                    let said = match decide(&app(visibility), caller, kind, source) {
                        Ok(permit) => {
                            assert_eq!(permit.workspace(), &WorkspaceId::from_random([1; 5]));
                            if permit.user().is_some() { Known } else { Nameless }
                        }
                        Err(refusal) => Not(refusal),
                    };
                    assert_eq!(said, expected, "{visibility}, {caller:?}, {kind:?}, {source:?}");
                    rows += 1;
                }
            }
        }
    }
    assert_eq!(rows, callers.len() * kinds.len() * 2 * 3);
}

#[test]
fn visibilities_have_their_names_back() {
    for visibility in Visibility::ALL {
        assert_eq!(visibility.as_str().parse(), Ok(visibility));
    }
    assert!("Public".parse::<Visibility>().is_err());
}

#[test]
fn what_shows_an_app_to_more_people_widens() {
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
        assert_eq!(widens((before.0, before.1), (after.0, after.1)), wider, "{before:?} {after:?}");
    }
}
