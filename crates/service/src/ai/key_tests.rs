//! Tests of the operator's keys. The AI proxy makes them: it has the keys and the way to providers, and is told ids only.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rigbox_proto::ai;
use rigbox_proto::ai::operator_client::OperatorClient;
use rigbox_store::ProviderKey;
use tonic::Status;

use crate::rpc;

/// Number of keys that are tried at once.
const KEYS_AT_ONCE: usize = 32;
/// Time for those. The proxy gives each key 15 s.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Length of what the proxy says beside a verdict.
const MAX_DETAIL_CHARS: usize = 300;

/// Outcome of a key's test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyVerdict {
    /// The provider takes the key.
    Accepted,
    /// The provider has refused the key, with this status and its own code.
    Refused(u32, String),
    /// The provider was not reached, for this reason.
    Unreachable(String),
    /// The provider's answer is about something else, with this status and its own code.
    Unclear(u32, String),
    /// The proxy does not have the key.
    NotAtProxy,
}

/// Error of a test.
#[derive(Debug, thiserror::Error)]
pub enum KeyTestError {
    /// The proxy did not test.
    #[error("the AI proxy does not answer ({0}). Keys are tested by a running installation: see if it is up")]
    NoProxy(String),
}

impl fmt::Display for KeyVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str("accepted"),
            Self::Refused(status, code) => write!(f, "refused: {}", answer(*status, code)),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::Unclear(status, code) => {
                write!(f, "not known: the provider said {}", answer(*status, code))
            }
            Self::NotAtProxy => f.write_str("not known: the AI proxy does not have it yet"),
        }
    }
}

fn answer(status: u32, code: &str) -> String {
    format!("{status} {code}").trim_end().to_owned()
}

/// Has the proxy that listens at `socket` try keys. Returns a verdict for each.
///
/// # Errors
/// [`KeyTestError`]
pub async fn test(socket: &Path, keys: &[ProviderKey]) -> Result<Vec<KeyVerdict>, KeyTestError> {
    let mut operator = OperatorClient::new(rpc::channel(socket));
    let no_proxy = |status: Status| KeyTestError::NoProxy(status.message().to_owned());
    let mut verdicts = Vec::with_capacity(keys.len());
    for some in keys.chunks(KEYS_AT_ONCE) {
        let key_ids = some.iter().map(|key| key.id.to_string()).collect();
        let tests = operator.test_keys(ai::TestKeysRequest { key_ids });
        let tests = tokio::time::timeout(TIMEOUT, tests).await;
        let tests = tests.unwrap_or_else(|_| Err(Status::deadline_exceeded("no reply within 20 s")));
        let tests = tests.map_err(no_proxy)?.into_inner().tests;
        let of = |key: &ProviderKey| {
            tests.iter().find(|test| test.key_id == key.id.as_str()).map_or(KeyVerdict::NotAtProxy, verdict)
        };
        verdicts.extend(some.iter().map(of));
    }
    Ok(verdicts)
}

fn verdict(test: &ai::KeyTest) -> KeyVerdict {
    // For a terminal.
    let printed = test.detail.chars().filter(|char| !char.is_control()).take(MAX_DETAIL_CHARS).collect();
    match test.verdict() {
        ai::KeyVerdict::Accepted => KeyVerdict::Accepted,
        ai::KeyVerdict::Refused => KeyVerdict::Refused(test.status, printed),
        ai::KeyVerdict::Unreachable => KeyVerdict::Unreachable(printed),
        ai::KeyVerdict::Unclear => KeyVerdict::Unclear(test.status, printed),
        ai::KeyVerdict::Unknown | ai::KeyVerdict::Unspecified => KeyVerdict::NotAtProxy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_is_printed_without_control_characters() {
        let test = |verdict: ai::KeyVerdict, status, detail: &str| {
            let test =
                ai::KeyTest { key_id: String::new(), verdict: verdict.into(), status, detail: detail.into() };
            super::verdict(&test).to_string()
        };
        assert_eq!(
            test(ai::KeyVerdict::Refused, 401, "invalid\u{1b}_api_key"),
            "refused: 401 invalid_api_key"
        );
        assert_eq!(test(ai::KeyVerdict::Unclear, 500, ""), "not known: the provider said 500");
        assert!(test(ai::KeyVerdict::Unreachable, 0, &"x".repeat(1_000)).len() < 400);
    }
}
