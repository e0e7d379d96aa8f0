//! Who may do what. [`permit`] is the only maker of a [`Permit`], and a service function that acts takes one:
//! there is no path to an effect without a decision.

use std::marker::PhantomData;

use crate::ids::{UserId, WorkspaceId};
use crate::plans::Plan;

/// Who asks, once the credential has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// The user's plan; `owner` is the installation's administrator.
    pub plan: Plan,
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
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
        impl Action for $name {
            const NAME: &'static str = $text;
            const ON: Kind = Kind::$kind;
        }
    )*};
}

actions! {
    /// Read the own account.
    ReadAccount, "account.read", Account;
    /// List the own workspaces.
    ListWorkspaces, "workspace.list", Account;
    /// Make a workspace.
    CreateWorkspace, "workspace.create", Account;
    /// Read a workspace.
    ReadWorkspace, "workspace.read", Workspace;
    /// Start, stop, cancel or retry a workspace.
    OperateWorkspace, "workspace.operate", Workspace;
    /// Delete a workspace.
    DeleteWorkspace, "workspace.delete", Workspace;
    /// Run a command in a workspace.
    Exec, "workspace.exec", Workspace;
    /// Read a workspace's files.
    ReadFiles, "files.read", Workspace;
    /// Write a workspace's files.
    WriteFiles, "files.write", Workspace;
    /// Look at the machine's condition.
    Diagnose, "installation.diagnose", Installation;
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
    /// The principal may know and may not act (403).
    #[error("not allowed: {0} needs the plan `owner`")]
    Forbidden(&'static str),
}

/// Decides.
pub fn permit<A: Action>(principal: &Principal, target: Target) -> Result<Permit<A>, Denied> {
    let allowed = match (&target, A::ON) {
        (Target::Account, Kind::Account) => Ok(()),
        (Target::Workspace { owner, .. }, Kind::Workspace) if *owner == principal.user => Ok(()),
        (Target::Workspace { .. }, _) => Err(Denied::Hidden),
        (Target::Installation, Kind::Installation) if principal.plan == Plan::Owner => Ok(()),
        (Target::Installation | Target::Account, _) => Err(Denied::Forbidden(A::NAME)),
    };
    allowed.map(|()| Permit { principal: principal.clone(), target, action: PhantomData })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u8, plan: Plan) -> Principal {
        Principal { user: UserId::from_random([n; 5]), plan }
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
            Err(Denied::Forbidden(_))
        ));
    }

    #[test]
    fn an_action_does_not_fit_another_kind_of_target() {
        assert!(permit::<Diagnose>(&user(1, Plan::Owner), Target::Account).is_err());
        assert!(permit::<CreateWorkspace>(&user(1, Plan::Owner), Target::Installation).is_err());
    }
}
