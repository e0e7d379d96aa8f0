//! Users' own AI providers and keys.

use rigbox_core::ai::mode::AiMode;
use rigbox_core::ai::own_key::AiStatus;
use rigbox_core::ai::provider::Provider;
use secrecy::{ExposeSecret, SecretString};

use super::secrets::unlocked;
use super::*;
use crate::{AiConfigChange, AiSubject};

fn key(provider: Provider, key: Option<&str>) -> AiConfigChange {
    let key = Some((provider, key.map(SecretString::from)));
    AiConfigChange { provider: Some(Some(provider)), key, ..AiConfigChange::default() }
}

async fn change(f: &Fixture, subject: &AiSubject, change: AiConfigChange) -> Vec<(WorkspaceId, i64)> {
    f.store.change_ai_config(subject, &change, &event(), now()).await.unwrap()
}

async fn key_of(f: &Fixture, id: &WorkspaceId, provider: Provider) -> Option<String> {
    let key = f.store.own_ai_key(id, provider).await.unwrap();
    key.map(|key| key.expose_secret().to_owned())
}

#[tokio::test]
async fn workspaces_key_comes_before_its_owners_and_clearing_one_leaves_the_other() {
    let (f, id) = unlocked().await;
    let (user, workspace) =
        (AiSubject::User(f.user.clone()), AiSubject::Workspace(id.clone(), f.user.clone()));
    let openai = Provider::OpenAi;
    assert_eq!(change(&f, &user, key(openai, Some("users"))).await, [(id.clone(), 1)]);
    assert_eq!(key_of(&f, &id, openai).await.as_deref(), Some("users"));
    assert_eq!(change(&f, &workspace, key(openai, Some("workspaces"))).await, [(id.clone(), 2)]);
    assert_eq!(key_of(&f, &id, openai).await.as_deref(), Some("workspaces"));
    change(&f, &workspace, key(openai, None)).await;
    assert_eq!(key_of(&f, &id, openai).await.as_deref(), Some("users"));
    change(&f, &user, key(openai, None)).await;
    assert_eq!(key_of(&f, &id, openai).await, None);
}

#[tokio::test]
async fn change_of_the_provider_loses_no_key() {
    let (f, id) = unlocked().await;
    let workspace = AiSubject::Workspace(id.clone(), f.user.clone());
    let mode = AiConfigChange { mode: Some(Some(AiMode::Byok)), ..AiConfigChange::default() };
    change(&f, &workspace, mode).await;
    let status = async || f.store.workspace_ai(&id).await.unwrap().unwrap().effective.status;
    assert_eq!(status().await, AiStatus::InvalidMissingKey);
    change(&f, &workspace, key(Provider::Google, Some("g"))).await;
    assert_eq!(status().await, AiStatus::ByokActive);
    let only = |provider| AiConfigChange { provider: Some(Some(provider)), ..AiConfigChange::default() };
    change(&f, &workspace, only(Provider::Anthropic)).await;
    assert_eq!(status().await, AiStatus::InvalidMissingKey);
    change(&f, &workspace, only(Provider::Google)).await;
    assert_eq!(status().await, AiStatus::ByokActive);
}

#[tokio::test]
async fn settings_of_no_workspace_change_nothing() {
    let (f, id) = unlocked().await;
    let stranger = UserId::from_random([9; 5]);
    let subject = AiSubject::Workspace(WorkspaceId::from_random([9; 5]), stranger);
    assert_eq!(change(&f, &subject, key(Provider::Google, Some("g"))).await, []);
    assert_eq!(key_of(&f, &id, Provider::Google).await, None);
}

#[tokio::test]
async fn key_is_sealed_to_its_row_and_goes_with_the_workspace() {
    const CANARY: &str = "canary-own-ai-key";
    let (f, id) = unlocked().await;
    let workspace = AiSubject::Workspace(id.clone(), f.user.clone());
    change(&f, &workspace, key(Provider::Google, Some(CANARY))).await;
    change(&f, &workspace, key(Provider::OpenAi, Some("other"))).await;
    f.store.rotate_master_key(now()).await.unwrap();
    assert_eq!(key_of(&f, &id, Provider::Google).await.as_deref(), Some(CANARY));
    let path = f.folder.path().join("rigbox.db");
    for path in [path, f.folder.path().join("rigbox.db-wal")] {
        let bytes = std::fs::read(&path).unwrap_or_default();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{}", path.display());
    }
    let moved = "UPDATE ai_own_keys SET (secret, master_key) = (SELECT secret, master_key FROM ai_own_keys \
                 WHERE provider = 'google') WHERE provider = 'openai'";
    sqlx::query(moved).execute(&f.store.writer).await.unwrap();
    let moved = f.store.own_ai_key(&id, Provider::OpenAi).await;
    assert!(matches!(moved, Err(Error::DecryptFailed { table: "ai_own_keys", .. })));
    sqlx::query("DELETE FROM workspaces").execute(&f.store.writer).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM ai_own_keys").fetch_one(&f.store.writer).await.unwrap();
    assert_eq!(left, 0);
}
