//! Cached keys are valid only as long as nothing changed, in whichever process.

use rigbox_core::plans::LimitOverrides;

use super::*;

/// Opens the same database a second time, as another process would.
async fn other(f: &Fixture) -> Store {
    Store::open(&f.folder.path().join("rigbox.db"), &f.token_key).await.unwrap()
}

#[tokio::test]
async fn change_by_another_process_takes_effect_immediately() {
    let f = fixture().await;
    let other = other(&f).await;
    let (record, key) = f.add(Scope::Account, None).await;
    let holder = || f.holder(&key, now());
    assert_eq!(holder().await.unwrap().principal.limits, LimitOverrides::default());

    let limits = LimitOverrides { max_vms: Some(7), ..LimitOverrides::default() };
    assert!(other.set_user_limits(&f.user, Some(limits), now()).await.unwrap());
    assert_eq!(holder().await.unwrap().principal.limits, limits);
    assert!(other.set_user_limits(&f.user, None, now()).await.unwrap());
    assert_eq!(holder().await.unwrap().principal.limits, LimitOverrides::default());

    let secret = NewSecret::of(&ApiKey::mint().unwrap(), &f.token_key);
    let until = now().after(Duration::from_secs(10));
    other.rotate_key(&f.user, &record.id, &secret, until, &event(), now()).await.unwrap().unwrap();
    assert!(holder().await.is_some());
    assert_eq!(f.holder(&key, until).await, None);

    assert!(other.revoke_key(&f.user, &record.id, &event(), now()).await.unwrap());
    assert_eq!(holder().await, None);
}

#[tokio::test]
async fn deleted_workspace_is_not_covered() {
    let f = fixture().await;
    let workspace = new(&f.user, 1, "w1");
    f.store.create_workspace(&workspace, QUOTA, None, &event()).await.unwrap();
    let scope = Scope::Workspaces { ids: BTreeSet::from([workspace.id.clone()]), role: Role::Read };
    let (_, key) = f.add(scope.clone(), None).await;
    let scope_now = async || f.holder(&key, now()).await.unwrap().principal.scope;
    assert_eq!(scope_now().await, scope);
    let deleting = workspace.lifecycle.request(Request::Cancel, now()).unwrap();
    assert!(f.store.update_lifecycle(&workspace, &deleting, None, None, None, now()).await.unwrap());
    let previous = f.store.workspace(&workspace.id).await.unwrap().unwrap();
    assert!(other(&f).await.remove_workspace(&previous).await.unwrap());
    assert_eq!(scope_now().await, Scope::Workspaces { ids: BTreeSet::new(), role: Role::Read });
}

#[tokio::test]
async fn use_is_no_change_of_what_is_granted() {
    let f = fixture().await;
    let principal = f.principal().await;
    let Credential::Key(key) = &principal.credential else { panic!() };
    let before = f.store.epoch().unwrap();
    f.store.key_used(key, now()).await.unwrap();
    let from = Some("192.0.2.1".parse().unwrap());
    f.store.key_used_from(&Principal { from, ..principal.clone() }, now()).await.unwrap();
    f.store.create_workspace(&new(&f.user, 1, "w1"), QUOTA, None, &event()).await.unwrap();
    assert_eq!(f.store.epoch().unwrap(), before);
    f.add(Scope::Account, None).await;
    assert!(f.store.epoch().unwrap() > before);
}
