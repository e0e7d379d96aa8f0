//! Tokens for apps: session cookies for browsers, and assertions that tell an app who its visitor is. Both
//! are authenticated with keys derived from the installation's token key, so nothing is stored.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rigbox_core::app_access::AppUser;
use rigbox_core::ids::{AppId, SessionId};
use rigbox_core::time::Timestamp;
use rigbox_store::App;
use rigbox_store::tokens::TokenKey;
use serde_json::json;

/// Validity of an assertion; gateways fetch a new one a minute before it ends.
const ASSERTION_TTL: Duration = Duration::from_mins(5);
const ASSERTION_REFRESH_AFTER: Duration = Duration::from_mins(4);
const PREFIX: &str = "rba_";

/// Browser session at one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSession {
    /// The app.
    pub app: AppId,
    /// Session at the console, which this one depends on and ends with.
    pub session: SessionId,
    /// End of the session.
    pub ends_at: Timestamp,
}

/// Issuer and verifier of tokens for apps.
#[derive(Clone)]
pub struct AppTokens(Arc<Keys>);

struct Keys {
    sessions: [u8; 32],
    assertions: Ed25519KeyPair,
    /// Id of the public key in assertions.
    key_id: String,
    issuer: String,
}

impl std::fmt::Debug for AppTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppTokens(..)")
    }
}

impl AppTokens {
    /// Creates the issuer. `issuer` is the URL of the API, which apps see in the `iss` claim.
    pub fn new(token_key: &TokenKey, issuer: &str) -> Result<Self, String> {
        let seed = token_key.derive("Rigbox app assertions, version 1");
        let assertions = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| error.to_string())?;
        let key_id = blake3::hash(assertions.public_key().as_ref()).to_hex().chars().take(16).collect();
        let sessions = token_key.derive("Rigbox app sessions, version 1");
        Ok(Self(Arc::new(Keys { sessions, assertions, key_id, issuer: issuer.to_owned() })))
    }

    /// Returns the token for the app's cookie.
    pub fn seal_session(&self, session: &AppSession) -> String {
        let text = format!("{}.{}.{}", session.app, session.session, session.ends_at.unix_ms());
        format!("{PREFIX}{text}.{}", self.mac(&text))
    }

    /// Returns the console session of a token that was issued for `app` and has not expired.
    pub fn open_session(&self, token: &str, app: &AppId, now: Timestamp) -> Option<SessionId> {
        let (text, mac) = token.strip_prefix(PREFIX)?.rsplit_once('.')?;
        verify_slices_are_equal(self.mac(text).as_bytes(), mac.as_bytes()).ok()?;
        let mut parts = text.split('.');
        let (of, session, ends) = (parts.next()?, parts.next()?, parts.next()?);
        let is_valid = of == app.as_str() && ends.parse::<i64>().ok()? > now.unix_ms();
        is_valid.then(|| session.parse().ok()).flatten()
    }

    fn mac(&self, text: &str) -> String {
        blake3::keyed_hash(&self.0.sessions, text.as_bytes()).to_hex().to_string()
    }

    /// Returns an assertion of a user's identity for one app, a JSON Web Token (RFC 7519) signed with Ed25519
    /// (RFC 8037), and the time at which to replace it.
    pub fn assertion(
        &self,
        app: &App,
        audience: &str,
        user: &AppUser,
        now: Timestamp,
    ) -> Result<(String, Timestamp), String> {
        let seconds = now.unix_ms() / 1000;
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": self.0.key_id});
        let claims = json!({
            "iss": self.0.issuer,
            "aud": audience,
            "sub": user.id.as_str(),
            "email": user.email,
            "email_verified": user.email_verified,
            "app": app.name.as_str(),
            "iat": seconds,
            "exp": now.after(ASSERTION_TTL).unix_ms() / 1000,
        });
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.0.assertions.sign(signed.as_bytes());
        Ok((format!("{signed}.{}", BASE64.encode(signature.as_ref())), now.after(ASSERTION_REFRESH_AFTER)))
    }

    /// Returns the public key as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> String {
        let public = BASE64.encode(self.0.assertions.public_key().as_ref());
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.0.key_id, "x": public,
        }]})
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn tokens() -> AppTokens {
        let folder = tempfile::tempdir().unwrap();
        let key = TokenKey::load_or_create(&folder.path().join("key")).unwrap();
        AppTokens::new(&key, "http://localhost:7070").unwrap()
    }

    #[test]
    fn session_is_valid_at_one_app_until_its_end() {
        let tokens = tokens();
        let (app, other) = (AppId::from_random([1; 5]), AppId::from_random([2; 5]));
        let ends_at = Timestamp::from_unix_ms(1_000);
        let session = AppSession { app: app.clone(), session: SessionId::from_random([3; 5]), ends_at };
        let token = tokens.seal_session(&session);
        let at = |token: &str, app, ms| tokens.open_session(token, app, Timestamp::from_unix_ms(ms));
        assert_eq!(at(&token, &app, 999), Some(session.session));
        assert_eq!(at(&token, &app, 1_000), None);
        assert_eq!(at(&token, &other, 999), None);
        // A change of any byte invalidates the token.
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(at(&changed, &app, 999), None, "{changed}");
        }
        assert_eq!(at(&format!("{token}0"), &app, 999), None);
        assert!(super::tests::tokens().open_session(&token, &app, Timestamp::from_unix_ms(0)).is_none());
    }

    #[test]
    fn assertion_verifies_with_published_key() {
        let tokens = tokens();
        let user = AppUser {
            id: rigbox_core::ids::UserId::from_random([4; 5]),
            email: "a@example.org".to_owned(),
            email_verified: true,
            in_scope: true,
            source: rigbox_core::app_access::CredentialSource::Header,
        };
        let now = Timestamp::from_unix_ms(1_700_000_000_000);
        let (token, until) = tokens.assertion(&app(), "http://web.rigbox.localhost", &user, now).unwrap();
        assert!(until < now.after(ASSERTION_TTL));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let keys: serde_json::Value = serde_json::from_str(&tokens.key_set()).unwrap();
        let public = BASE64.decode(keys["keys"][0]["x"].as_str().unwrap()).unwrap();
        let key = UnparsedPublicKey::new(&ED25519, public);
        key.verify(signed.as_bytes(), &BASE64.decode(signature).unwrap()).unwrap();
        let claims = BASE64.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(
            (&claims["aud"], &claims["exp"]),
            (&json!("http://web.rigbox.localhost"), &json!(1_700_000_300))
        );
    }

    fn app() -> App {
        App {
            id: AppId::from_random([1; 5]),
            workspace_id: rigbox_core::ids::WorkspaceId::from_random([1; 5]),
            user_id: rigbox_core::ids::UserId::from_random([1; 5]),
            name: "web".parse().unwrap(),
            kind: rigbox_core::apps::AppKind::Service,
            port: Some(80),
            protocol: "http".to_owned(),
            visibility: rigbox_core::app_access::Visibility::Private,
            shared_with: Vec::new(),
            cors_origins: Vec::new(),
            params: std::collections::BTreeMap::new(),
            metadata: json!({}),
            description: None,
            stopped: false,
            service: None,
            custom_domain: None,
            domain_verified_at: None,
            created_at: Timestamp::from_unix_ms(0),
            updated_at: Timestamp::from_unix_ms(0),
        }
    }
}
