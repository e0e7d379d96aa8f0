//! Email to users, by SMTP. If no server is configured, nothing is sent, and the log says what to do instead.

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

/// Configuration of outgoing email.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// `smtps://user:password@host`, or `smtp://host?tls=required`; see lettre's
    /// `AsyncSmtpTransport::from_url`.
    pub smtp_url: SecretString,
    /// Sender, e.g. `Rigbox <rigbox@example.org>`.
    pub from: String,
}

/// Error in the configuration of email.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The sender is invalid.
    #[error(
        "mail.from `{from}` is not a valid sender: expected e.g. `Rigbox <rigbox@example.org>`: {problem}"
    )]
    From {
        /// The configured value.
        from: String,
        /// The problem with it.
        problem: String,
    },
    /// The URL is invalid. The message does not repeat it, because it may contain a password.
    #[error(
        "mail.smtp_url is not the URL of an SMTP server: expected e.g. `smtps://user:password@smtp.example.org`"
    )]
    Url,
}

/// Timeout of sending one email.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Sender of email.
pub enum Mailer {
    /// Sends by SMTP.
    Smtp {
        /// Connection pool of the server.
        transport: Box<AsyncSmtpTransport<Tokio1Executor>>,
        /// Sender.
        from: Mailbox,
    },
    /// Sends nothing.
    Log,
}

impl Mailer {
    /// Creates a mailer; without a configuration it sends nothing.
    pub fn new(config: Option<&MailConfig>) -> Result<Self, MailError> {
        let Some(config) = config else { return Ok(Self::Log) };
        let from = config.from.parse().map_err(|error: lettre::address::AddressError| MailError::From {
            from: config.from.clone(),
            problem: error.to_string(),
        })?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(config.smtp_url.expose_secret())
            .map_err(|_| MailError::Url)?
            .timeout(Some(SEND_TIMEOUT))
            .build();
        Ok(Self::Smtp { transport: Box::new(transport), from })
    }

    /// Sends a sign-in link. Without a server, the log says how the operator gets one: whoever reads logs must not sign in as others.
    /// Failures are logged for the operator.
    pub async fn send_link(&self, to: &str, link: &str, minutes: u64) {
        if let Self::Log = self {
            return info!(
                to,
                "sent no sign-in link, because no SMTP server is configured; print one with `rigboxd admin login-link`"
            );
        }
        let text = format!(
            "Someone, probably you, asked to sign in to Rigbox.\n\n{link}\n\nThis link works once and expires in {minutes} minutes. If it was not you, ignore this email.\n"
        );
        self.send(to, "Sign in to Rigbox", text).await;
    }

    /// Tells that `owner` has shared an app. Without a server, nothing is sent. Failures are logged for the operator.
    pub async fn send_shared_app(&self, to: &str, owner: &str, app: &str, url: &str) {
        let text = format!(
            "{owner} has shared the app {app} with you.\n\n{url}\n\nOpen it and sign in with this email address. If you have no account yet, ask {owner} for one. If you do not know {owner}, ignore this email.\n"
        );
        self.send(to, &format!("{owner} shared {app} with you"), text).await;
    }

    async fn send(&self, to: &str, subject: &str, text: String) {
        let Self::Smtp { transport, from } = self else { return };
        let message = to.parse::<Mailbox>().map_err(|error| error.to_string()).and_then(|to| {
            Message::builder()
                .from(from.clone())
                .to(to)
                .subject(subject)
                .header(ContentType::TEXT_PLAIN)
                .body(text)
                .map_err(|error| error.to_string())
        });
        let outcome = match message {
            Ok(message) => transport.send(message).await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => info!(to, subject, "sent an email"),
            Err(error) => warn!(to, subject, error, "failed to send an email"),
        }
    }
}

/// Parses an email address into the form used for storage and comparison: lower case.
pub fn parse_address(text: &str) -> Option<String> {
    let address: Address = text.trim().parse().ok()?;
    let text = address.to_string().to_lowercase();
    // RFC 5321, section 4.5.3.1.3, less the brackets.
    (text.len() <= 254).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Log of a test.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn sign_in_link_is_never_in_the_log() {
        let written = Written::default();
        let log = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone());
        let _logging = tracing::subscriber::set_default(subscriber.finish());
        // Nobody listens at port 1: sending fails.
        let config = MailConfig {
            smtp_url: "smtp://127.0.0.1:1".to_owned().into(),
            from: "Rigbox <rigbox@example.org>".to_owned(),
        };
        for (config, said) in [(None, "rigboxd admin login-link"), (Some(&config), "failed to send an email")]
        {
            let mailer = Mailer::new(config).unwrap();
            mailer.send_link("ada@example.org", "http://console/sign-in/link?token=t0ken", 15).await;
            let text = String::from_utf8(std::mem::take(&mut *written.0.lock().unwrap())).unwrap();
            assert!(text.contains(said) && text.contains("ada@example.org"), "{text}");
            assert!(!text.contains("t0ken"), "{text}");
        }
    }

    #[test]
    fn one_mailbox_has_one_spelling() {
        assert_eq!(parse_address(" Ada@Example.ORG ").as_deref(), Some("ada@example.org"));
        for bad in ["", "ada", "ada@", "@example.org", "a da@example.org", "a@b\nc@d", "Ada <a@example.org>"]
        {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
        assert_eq!(parse_address(&format!("{}@example.org", "x".repeat(250))), None);
    }

    #[test]
    fn a_servers_password_is_not_in_the_error() {
        let config = MailConfig { smtp_url: "gopher://u:hunter2@x".into(), from: "a@b.example".to_owned() };
        let error = Mailer::new(Some(&config)).err().unwrap().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
