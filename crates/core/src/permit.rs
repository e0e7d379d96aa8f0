//! Who may do what. [`permit`] is the only maker of a [`Permit`], and a service function that acts takes one:
//! there is no path to an effect without a decision.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use crate::ids::{KeyId, SessionId, UserId, WorkspaceId};
use crate::plans::{Overrides, Plan};

/// Who asks, once the credential has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// The user's plan; `owner` is the installation's administrator.
    pub plan: Plan,
    /// What is set for this user otherwise than for the plan.
    pub limits: Overrides,
    /// What was shown.
    pub credential: Credential,
    /// How much of the account it opens.
    pub scope: Scope,
    /// Where the request came from, as far as that is known.
    pub from: Option<IpAddr>,
}

/// What somebody showed to be known by: its id, never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// An API key of the user.
    Key(KeyId),
    /// A browser that the user signed in with.
    Session(SessionId),
    /// The key that a running workspace has of itself.
    Workspace(WorkspaceId),
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(id) => id.as_str(),
            Self::Session(id) => id.as_str(),
            Self::Workspace(id) => id.as_str(),
        })
    }
}

/// How much of its user's account a credential opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Account,
    /// The listed workspaces; all others do not exist for it.
    Workspaces {
        /// Which ones.
        ids: BTreeSet<WorkspaceId>,
        /// What may be done in them.
        role: Role,
    },
    /// What a workspace may know and do of itself, and nothing else.
    Within(WorkspaceId),
}

/// What a credential that is limited to some workspaces may do in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Use: start, stop, run commands, read and write files.
    Operate,
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: expected read or operate")]
pub struct BadRole(String);

impl Role {
    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

impl FromStr for Role {
    type Err = BadRole;

    fn from_str(text: &str) -> Result<Self, BadRole> {
        [Self::Read, Self::Operate]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| BadRole(text.chars().take(64).collect()))
    }
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The principal's own account.
    Account,
    /// A workspace and who owns it.
    Workspace {
        /// Which one.
        id: WorkspaceId,
        /// Whose.
        owner: UserId,
    },
    /// The installation as a whole.
    Installation,
}

/// The kinds of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`Target::Account`].
    Account,
    /// See [`Target::Workspace`].
    Workspace,
    /// See [`Target::Installation`].
    Installation,
}

/// An action: a type, so that the permit for one does not open another.
pub trait Action: Send + Sync + 'static {
    /// Its name in logs and messages.
    const NAME: &'static str;
    /// What it acts on.
    const ON: Kind;
    /// The least role with which a credential limited to some workspaces may; none: only the whole account may.
    const SCOPED: Option<Role>;
    /// Whether a workspace may do it to itself with its own key.
    const WITHIN: bool;
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $kind:ident, $scoped:expr, $within:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
        impl Action for $name {
            const NAME: &'static str = $text;
            const ON: Kind = Kind::$kind;
            const SCOPED: Option<Role> = $scoped;
            const WITHIN: bool = $within;
        }
    )*};
}

actions! {
    /// Read the own account.
    ReadAccount, "account.read", Account, Some(Role::Read), false;
    /// Read the account's limits and what is used of them.
    ReadLimits, "account.limits", Account, None, false;
    /// List the own workspaces.
    ListWorkspaces, "workspace.list", Account, Some(Role::Read), true;
    /// Make a workspace.
    CreateWorkspace, "workspace.create", Account, None, false;
    /// Read a workspace.
    ReadWorkspace, "workspace.read", Workspace, Some(Role::Read), true;
    /// Start, stop, cancel or retry a workspace.
    OperateWorkspace, "workspace.operate", Workspace, Some(Role::Operate), false;
    /// Delete a workspace.
    DeleteWorkspace, "workspace.delete", Workspace, None, false;
    /// Run a command in a workspace.
    Exec, "workspace.exec", Workspace, Some(Role::Operate), false;
    /// Read a workspace's files.
    ReadFiles, "files.read", Workspace, Some(Role::Operate), false;
    /// Write a workspace's files.
    WriteFiles, "files.write", Workspace, Some(Role::Operate), false;
    /// Read which variables a workspace's environment has.
    ReadEnv, "env.read", Workspace, Some(Role::Read), false;
    /// Change a workspace's environment.
    WriteEnv, "env.write", Workspace, Some(Role::Operate), false;
    /// List the apps of the own workspaces.
    ListApps, "app.list", Account, Some(Role::Read), true;
    /// Read an app, and how it is.
    ReadApp, "app.read", Workspace, Some(Role::Read), true;
    /// Make, change, start, stop or delete apps.
    ManageApp, "app.manage", Workspace, Some(Role::Operate), true;
    /// Read a workspace's own log.
    ReadLogs, "log.read", Workspace, Some(Role::Read), true;
    /// Read what listens in a workspace.
    ReadPorts, "port.read", Workspace, Some(Role::Read), true;
    /// Read what may pass between a workspace and the network.
    ReadNetwork, "network.read", Workspace, Some(Role::Read), true;
    /// Change that.
    WriteNetwork, "network.write", Workspace, Some(Role::Operate), false;
    /// List the account's API keys.
    ListKeys, "key.list", Account, None, false;
    /// Make, replace or revoke the account's API keys.
    ManageKeys, "key.manage", Account, None, false;
    /// End the credential that is shown: sign out.
    EndCredential, "credential.end", Account, Some(Role::Read), false;
    /// Let a machine in that asks to act for the account.
    ApproveDevice, "device.approve", Account, None, false;
    /// Read the account's audit log.
    ReadAudit, "audit.read", Account, None, false;
    /// Look at the machine's condition.
    Diagnose, "installation.diagnose", Installation, None, false;
}

/// Proof that a principal may do `A` to one target.
#[derive(Debug, Clone)]
pub struct Permit<A> {
    principal: Principal,
    target: Target,
    action: PhantomData<A>,
}

impl<A: Action> Permit<A> {
    /// Who may.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The workspace it is about; none for other kinds of target.
    pub fn workspace(&self) -> Option<&WorkspaceId> {
        match &self.target {
            Target::Workspace { id, .. } => Some(id),
            Target::Account | Target::Installation => None,
        }
    }
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The principal is not to learn that the target exists (404).
    #[error("hidden")]
    Hidden,
    /// Only the installation's administrator may (403).
    #[error("not allowed: {0} needs the plan `owner`")]
    NotOwner(&'static str),
    /// The credential is limited to less than that (403).
    #[error(
        "not allowed: this key is limited to some workspaces, or is a workspace's own, and does not cover {0}"
    )]
    OutOfScope(&'static str),
}

/// Decides.
pub fn permit<A: Action>(principal: &Principal, target: Target) -> Result<Permit<A>, Denied> {
    decide::<A>(principal, &target)?;
    Ok(Permit { principal: principal.clone(), target, action: PhantomData })
}

fn decide<A: Action>(principal: &Principal, target: &Target) -> Result<(), Denied> {
    // Existence first: what is hidden is hidden whatever was asked.
    match (target, A::ON) {
        (Target::Workspace { id, owner }, Kind::Workspace) => {
            let covered = match &principal.scope {
                Scope::Account => true,
                Scope::Workspaces { ids, .. } => ids.contains(id),
                Scope::Within(own) => own == id,
            };
            if *owner != principal.user || !covered {
                return Err(Denied::Hidden);
            }
        }
        (Target::Workspace { .. }, _) => return Err(Denied::Hidden),
        (Target::Account, Kind::Account) => {}
        (Target::Installation, Kind::Installation) if principal.plan == Plan::Owner => {}
        (Target::Installation | Target::Account, _) => return Err(Denied::NotOwner(A::NAME)),
    }
    let covered = match &principal.scope {
        Scope::Account => true,
        Scope::Workspaces { role, .. } => A::SCOPED.is_some_and(|least| *role >= least),
        Scope::Within(_) => A::WITHIN,
    };
    if covered { Ok(()) } else { Err(Denied::OutOfScope(A::NAME)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u8, plan: Plan) -> Principal {
        Principal {
            user: UserId::from_random([n; 5]),
            plan,
            limits: Overrides::default(),
            credential: Credential::Key(KeyId::from_random([n; 5])),
            scope: Scope::Account,
            from: None,
        }
    }

    #[test]
    fn somebody_elses_workspace_does_not_exist() {
        let (alice, bob) = (user(1, Plan::Owner), user(2, Plan::Pro));
        let id = WorkspaceId::from_random([9; 5]);
        let target = Target::Workspace { id: id.clone(), owner: bob.user.clone() };
        assert_eq!(permit::<ReadWorkspace>(&alice, target.clone()).unwrap_err(), Denied::Hidden);
        assert_eq!(permit::<ReadWorkspace>(&bob, target).unwrap().workspace(), Some(&id));
    }

    #[test]
    fn the_machines_condition_is_for_the_owner() {
        assert!(permit::<Diagnose>(&user(1, Plan::Owner), Target::Installation).is_ok());
        assert!(matches!(
            permit::<Diagnose>(&user(1, Plan::Pro), Target::Installation),
            Err(Denied::NotOwner(_))
        ));
    }

    #[test]
    fn an_action_does_not_fit_another_kind_of_target() {
        assert!(permit::<Diagnose>(&user(1, Plan::Owner), Target::Account).is_err());
        assert!(permit::<CreateWorkspace>(&user(1, Plan::Owner), Target::Installation).is_err());
    }

    /// Every action, by every kind of credential: this table is the rule, spelled out.
    #[test]
    fn a_scoped_credential_may_what_the_table_says() {
        let id = |n| WorkspaceId::from_random([n; 5]);
        let limited = |role| Principal {
            scope: Scope::Workspaces { ids: BTreeSet::from([id(1)]), role },
            ..user(1, Plan::Owner)
        };
        let within = Principal {
            credential: Credential::Workspace(id(1)),
            scope: Scope::Within(id(1)),
            ..user(1, Plan::Owner)
        };
        let mine = |n| Target::Workspace { id: id(n), owner: user(1, Plan::Owner).user };
        // Inside the scope: what `read` gets, what `operate` gets, what a workspace's own key gets; outside of it nothing exists.
        macro_rules! check {
            ($($action:ident, $target:expr, $read:literal, $operate:literal, $within:literal;)*) => {$(
                assert_eq!(permit::<$action>(&limited(Role::Read), $target).is_ok(), $read, stringify!($action));
                assert_eq!(permit::<$action>(&limited(Role::Operate), $target).is_ok(), $operate, stringify!($action));
                assert_eq!(permit::<$action>(&within, $target).is_ok(), $within, stringify!($action));
                assert!(permit::<$action>(&user(1, Plan::Owner), $target).is_ok(), stringify!($action));
                if $action::ON == Kind::Workspace {
                    for other in [&limited(Role::Operate), &within] {
                        let outside = permit::<$action>(other, mine(2));
                        assert_eq!(outside.unwrap_err(), Denied::Hidden, stringify!($action));
                    }
                }
            )*};
        }
        check! {
            ReadAccount, Target::Account, true, true, false;
            ListWorkspaces, Target::Account, true, true, true;
            ReadLimits, Target::Account, false, false, false;
            CreateWorkspace, Target::Account, false, false, false;
            ListKeys, Target::Account, false, false, false;
            ManageKeys, Target::Account, false, false, false;
            EndCredential, Target::Account, true, true, false;
            ApproveDevice, Target::Account, false, false, false;
            ReadAudit, Target::Account, false, false, false;
            ReadWorkspace, mine(1), true, true, true;
            OperateWorkspace, mine(1), false, true, false;
            DeleteWorkspace, mine(1), false, false, false;
            Exec, mine(1), false, true, false;
            ReadFiles, mine(1), false, true, false;
            WriteFiles, mine(1), false, true, false;
            ReadEnv, mine(1), true, true, false;
            WriteEnv, mine(1), false, true, false;
            ListApps, Target::Account, true, true, true;
            ReadApp, mine(1), true, true, true;
            ManageApp, mine(1), false, true, true;
            ReadLogs, mine(1), true, true, true;
            ReadPorts, mine(1), true, true, true;
            ReadNetwork, mine(1), true, true, true;
            WriteNetwork, mine(1), false, true, false;
            Diagnose, Target::Installation, false, false, false;
        }
    }
}
