//! Authorization. [`authorize`] is the only way to obtain a [`Permit`], and every service function with an
//! effect takes one, so there is no effect without a decision.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use crate::ids::{KeyId, SessionId, SshKeyId, UserId, WorkspaceId};
use crate::plans::{LimitOverrides, Plan};

/// Authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Id of the user.
    pub user: UserId,
    /// Plan of the user. `owner` is the installation's administrator.
    pub plan: Plan,
    /// Limits set for this user in place of the plan's.
    pub limits: LimitOverrides,
    /// Credential that was presented.
    pub credential: Credential,
    /// Part of the account that the credential opens.
    pub scope: Scope,
    /// Client address, if known.
    pub from: Option<IpAddr>,
}

/// Identity of a credential: its id, never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// API key of the user.
    Key(KeyId),
    /// Browser session of the user.
    Session(SessionId),
    /// Key that a running workspace has for itself.
    Workspace(WorkspaceId),
    /// SSH key of the user.
    SshKey(SshKeyId),
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(id) => id.as_str(),
            Self::Session(id) => id.as_str(),
            Self::Workspace(id) => id.as_str(),
            Self::SshKey(id) => id.as_str(),
        })
    }
}

/// Part of its user's account that a credential opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole account.
    Account,
    /// The listed workspaces. To the credential, all others do not exist.
    Workspaces {
        /// Ids of the workspaces.
        ids: BTreeSet<WorkspaceId>,
        /// Role in these workspaces.
        role: Role,
    },
    /// One workspace, limited to what a workspace may know and do about itself.
    OwnWorkspace(WorkspaceId),
}

/// Role of a credential that is limited to some workspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read only.
    Read,
    /// Start, stop, run commands, read and write files.
    Operate,
}

/// Error for a text that is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid role. Use read or operate.")]
pub struct InvalidRole(String);

impl Role {
    /// Returns the wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        [Self::Read, Self::Operate]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidRole(text.chars().take(64).collect()))
    }
}

/// Object of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The principal's own account.
    Account,
    /// A workspace.
    Workspace {
        /// Id of the workspace.
        id: WorkspaceId,
        /// Owner of the workspace.
        owner: UserId,
    },
    /// The installation as a whole.
    Installation,
}

/// Kind of [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// See [`Target::Account`].
    Account,
    /// See [`Target::Workspace`].
    Workspace,
    /// See [`Target::Installation`].
    Installation,
}

/// Action that needs authorization. Each action is a type, so a permit for one is not a permit for another.
pub trait Action: Send + Sync + 'static {
    /// Name in logs and messages.
    const NAME: &'static str;
    /// Kind of target the action applies to.
    const TARGET: TargetKind;
    /// Least role that allows the action to a credential limited to some workspaces. `None`: only the whole
    /// account may.
    const MIN_ROLE: Option<Role>;
    /// True if a workspace may do this to itself with its own key.
    const SELF_SERVICE: bool;
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $kind:ident, $min_role:expr, $self_service:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
        impl Action for $name {
            const NAME: &'static str = $text;
            const TARGET: TargetKind = TargetKind::$kind;
            const MIN_ROLE: Option<Role> = $min_role;
            const SELF_SERVICE: bool = $self_service;
        }
    )*};
}

actions! {
    /// Read the caller's own account.
    ReadAccount, "account.read", Account, Some(Role::Read), false;
    /// Read the account's limits and usage.
    ReadLimits, "account.limits", Account, None, false;
    /// List the caller's own workspaces.
    ListWorkspaces, "workspace.list", Account, Some(Role::Read), true;
    /// Create a workspace.
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
    /// Read the names of a workspace's environment variables.
    ReadEnv, "env.read", Workspace, Some(Role::Read), false;
    /// Change a workspace's environment.
    WriteEnv, "env.write", Workspace, Some(Role::Operate), false;
    /// List the apps of the caller's own workspaces.
    ListApps, "app.list", Account, Some(Role::Read), true;
    /// Read an app and its health.
    ReadApp, "app.read", Workspace, Some(Role::Read), true;
    /// Create, change, start, stop or delete apps.
    ManageApp, "app.manage", Workspace, Some(Role::Operate), true;
    /// Read a workspace's log.
    ReadLogs, "log.read", Workspace, Some(Role::Read), true;
    /// Read the listening ports of a workspace.
    ReadPorts, "port.read", Workspace, Some(Role::Read), true;
    /// Read the network policy of a workspace.
    ReadNetwork, "network.read", Workspace, Some(Role::Read), true;
    /// Change the network policy of a workspace.
    WriteNetwork, "network.write", Workspace, Some(Role::Operate), false;
    /// List the account's API keys.
    ListKeys, "key.list", Account, None, false;
    /// Create, rotate or revoke the account's API keys.
    ManageKeys, "key.manage", Account, None, false;
    /// List the account's SSH keys.
    ListSshKeys, "ssh_key.list", Account, None, false;
    /// Register or remove SSH keys of the account.
    ManageSshKeys, "ssh_key.manage", Account, None, false;
    /// List the SSH keys that log in to a workspace.
    ReadAuthorizedKeys, "workspace.ssh_keys", Workspace, Some(Role::Read), false;
    /// Write the SSH keys that log in to a workspace into it.
    SyncAuthorizedKeys, "workspace.ssh_keys.sync", Workspace, Some(Role::Operate), false;
    /// Open a connection to the SSH gateway over the API.
    OpenSsh, "workspace.ssh", Workspace, Some(Role::Operate), false;
    /// Read the account's credits for AI calls, what was used of them, and its settings.
    ReadAi, "ai.read", Account, None, false;
    /// Change the account's settings of AI calls.
    ManageAi, "ai.manage", Account, None, false;
    /// Switch the AI proxy of a workspace off and on again.
    SwitchAiProxy, "ai.switch", Workspace, Some(Role::Operate), true;
    /// List the account's proxied secrets, without their values.
    ReadSecrets, "secret.read", Account, None, false;
    /// Store or remove proxied secrets of the account.
    ManageSecrets, "secret.manage", Account, None, false;
    /// Revoke the presented credential (sign out).
    EndCredential, "credential.end", Account, Some(Role::Read), false;
    /// Approve a device login.
    ApproveDevice, "device.approve", Account, None, false;
    /// Read the account's audit log.
    ReadAudit, "audit.read", Account, None, false;
    /// Read the condition of the host.
    Diagnose, "installation.diagnose", Installation, None, false;
}

/// Proof that a principal may perform `A` on one target.
#[derive(Debug, Clone)]
pub struct Permit<A> {
    principal: Principal,
    target: Target,
    action: PhantomData<A>,
}

impl<A: Action> Permit<A> {
    /// Returns the authorized principal.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns the target workspace, or `None` for other kinds of target.
    pub fn workspace(&self) -> Option<&WorkspaceId> {
        match &self.target {
            Target::Workspace { id, .. } => Some(id),
            Target::Account | Target::Installation => None,
        }
    }
}

/// Reason for denying an action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The principal must not learn that the target exists (404).
    #[error("not found")]
    NotFound,
    /// Only the installation's administrator may (403).
    #[error("Only the administrator (plan `owner`) may do this ({0}).")]
    AdministratorOnly(&'static str),
    /// The credential's scope does not cover the action (403).
    #[error("{} does not allow {action}. {}", describe(scope), remedy(*least_role))]
    OutOfScope {
        /// Name of the action.
        action: &'static str,
        /// Scope of the credential.
        scope: Scope,
        /// Least role that allows the action; `None` if only the whole account may.
        least_role: Option<Role>,
    },
}

/// Maximum number of workspaces that a message lists.
const MAX_LISTED: usize = 3;

fn describe(scope: &Scope) -> String {
    match scope {
        Scope::Account => "This key".to_owned(),
        Scope::OwnWorkspace(id) => format!("The key of workspace {id} itself"),
        Scope::Workspaces { ids, role } => {
            let listed: Vec<&str> = ids.iter().take(MAX_LISTED).map(WorkspaceId::as_str).collect();
            let more = match ids.len() - listed.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("This key (role `{}` on {}{more})", role.as_str(), listed.join(", "))
        }
    }
}

fn remedy(least_role: Option<Role>) -> String {
    match least_role {
        Some(role) => format!("Use a key with role `{}`.", role.as_str()),
        None => "Use a key for the whole account.".to_owned(),
    }
}

/// Authorizes an action on a target.
pub fn authorize<A: Action>(principal: &Principal, target: Target) -> Result<Permit<A>, Denied> {
    decide::<A>(principal, &target)?;
    Ok(Permit { principal: principal.clone(), target, action: PhantomData })
}

fn decide<A: Action>(principal: &Principal, target: &Target) -> Result<(), Denied> {
    // Existence comes first: a hidden target is reported as missing, whatever the action.
    match (target, A::TARGET) {
        (Target::Workspace { id, owner }, TargetKind::Workspace) => {
            let covered = match &principal.scope {
                Scope::Account => true,
                Scope::Workspaces { ids, .. } => ids.contains(id),
                Scope::OwnWorkspace(own) => own == id,
            };
            if *owner != principal.user || !covered {
                return Err(Denied::NotFound);
            }
        }
        (Target::Workspace { .. }, _) => return Err(Denied::NotFound),
        (Target::Account, TargetKind::Account) => {}
        (Target::Installation, TargetKind::Installation) if principal.plan == Plan::Owner => {}
        (Target::Installation | Target::Account, _) => return Err(Denied::AdministratorOnly(A::NAME)),
    }
    let covered = match &principal.scope {
        Scope::Account => true,
        Scope::Workspaces { role, .. } => A::MIN_ROLE.is_some_and(|least| *role >= least),
        Scope::OwnWorkspace(_) => A::SELF_SERVICE,
    };
    if covered {
        return Ok(());
    }
    Err(Denied::OutOfScope { action: A::NAME, scope: principal.scope.clone(), least_role: A::MIN_ROLE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u8, plan: Plan) -> Principal {
        Principal {
            user: UserId::from_random([n; 5]),
            plan,
            limits: LimitOverrides::default(),
            credential: Credential::Key(KeyId::from_random([n; 5])),
            scope: Scope::Account,
            from: None,
        }
    }

    #[test]
    fn another_users_workspace_is_not_found() {
        let (alice, bob) = (user(1, Plan::Owner), user(2, Plan::Pro));
        let id = WorkspaceId::from_random([9; 5]);
        let target = Target::Workspace { id: id.clone(), owner: bob.user.clone() };
        assert_eq!(authorize::<ReadWorkspace>(&alice, target.clone()).unwrap_err(), Denied::NotFound);
        assert_eq!(authorize::<ReadWorkspace>(&bob, target).unwrap().workspace(), Some(&id));
    }

    #[test]
    fn only_the_administrator_reads_the_host_status() {
        assert!(authorize::<Diagnose>(&user(1, Plan::Owner), Target::Installation).is_ok());
        assert!(matches!(
            authorize::<Diagnose>(&user(1, Plan::Pro), Target::Installation),
            Err(Denied::AdministratorOnly(_))
        ));
    }

    #[test]
    fn action_is_refused_on_another_kind_of_target() {
        assert!(authorize::<Diagnose>(&user(1, Plan::Owner), Target::Account).is_err());
        assert!(authorize::<CreateWorkspace>(&user(1, Plan::Owner), Target::Installation).is_err());
    }

    #[test]
    fn refusal_names_the_scope_of_the_key_and_the_role_that_is_needed() {
        let id = |n| WorkspaceId::from_random([n; 5]);
        let mut caller = user(1, Plan::Owner);
        let owner = caller.user.clone();
        let target = Target::Workspace { id: id(1), owner };
        let mut message = |ids: &[u8], credential: Option<u8>| {
            caller.scope = match credential {
                Some(n) => Scope::OwnWorkspace(id(n)),
                None => Scope::Workspaces { ids: ids.iter().map(|n| id(*n)).collect(), role: Role::Read },
            };
            let exec = authorize::<Exec>(&caller, target.clone()).unwrap_err().to_string();
            (exec, authorize::<ManageKeys>(&caller, Target::Account).unwrap_err().to_string())
        };
        let (exec, keys) = message(&[1], None);
        let key = format!("This key (role `read` on {})", id(1));
        assert_eq!(exec, format!("{key} does not allow workspace.exec. Use a key with role `operate`."));
        assert_eq!(keys, format!("{key} does not allow key.manage. Use a key for the whole account."));
        assert!(message(&[1, 2, 3, 4, 5], None).0.contains(" and 2 more)"));
        let (exec, _) = message(&[], Some(1));
        assert!(exec.starts_with(&format!("The key of workspace {} itself does not allow", id(1))), "{exec}");
    }

    /// Every action with every kind of credential: the rule, spelled out.
    #[test]
    fn scoped_credential_allows_what_the_table_says() {
        let id = |n| WorkspaceId::from_random([n; 5]);
        let limited = |role| Principal {
            scope: Scope::Workspaces { ids: BTreeSet::from([id(1)]), role },
            ..user(1, Plan::Owner)
        };
        let within = Principal {
            credential: Credential::Workspace(id(1)),
            scope: Scope::OwnWorkspace(id(1)),
            ..user(1, Plan::Owner)
        };
        let mine = |n| Target::Workspace { id: id(n), owner: user(1, Plan::Owner).user };
        // Columns: within the scope with role `read`, with role `operate`, with a workspace's own key.
        // Outside the scope nothing exists.
        macro_rules! check {
            ($($action:ident, $target:expr, $read:literal, $operate:literal, $within:literal;)*) => {$(
                assert_eq!(authorize::<$action>(&limited(Role::Read), $target).is_ok(), $read, stringify!($action));
                assert_eq!(authorize::<$action>(&limited(Role::Operate), $target).is_ok(), $operate, stringify!($action));
                assert_eq!(authorize::<$action>(&within, $target).is_ok(), $within, stringify!($action));
                assert!(authorize::<$action>(&user(1, Plan::Owner), $target).is_ok(), stringify!($action));
                if $action::TARGET == TargetKind::Workspace {
                    for other in [&limited(Role::Operate), &within] {
                        let outside = authorize::<$action>(other, mine(2));
                        assert_eq!(outside.unwrap_err(), Denied::NotFound, stringify!($action));
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
            ListSshKeys, Target::Account, false, false, false;
            ReadAi, Target::Account, false, false, false;
            ManageAi, Target::Account, false, false, false;
            ManageSshKeys, Target::Account, false, false, false;
            ReadAuthorizedKeys, mine(1), true, true, false;
            SyncAuthorizedKeys, mine(1), false, true, false;
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
