//! Letters to users: by SMTP, or, where no server is configured, into the log for the operator to pass on.

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

/// How letters are sent.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// `smtps://user:password@host`, or `smtp://host?tls=required`; see lettre's `AsyncSmtpTransport::from_url`.
    pub smtp_url: SecretString,
    /// Whom letters are from, e.g. `Rigbox <rigbox@example.org>`.
    pub from: String,
}

/// Why letters cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Not a sender's address.
    #[error("mail.from `{from}` is no sender: expected e.g. `Rigbox <rigbox@example.org>`: {problem}")]
    From {
        /// What was given.
        from: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not a server. The text does not repeat the URL: there may be a password in it.
    #[error("mail.smtp_url is no SMTP server's: expected e.g. `smtps://user:password@smtp.example.org`")]
    Url,
}

/// A server that takes longer is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

pub enum Mailer {
    Smtp { transport: Box<AsyncSmtpTransport<Tokio1Executor>>, from: Mailbox },
    Log,
}

impl Mailer {
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

    /// Sends a sign-in link; what goes wrong is the operator's to see.
    pub async fn send_link(&self, to: &str, link: &str, minutes: u64) {
        let (transport, from) = match self {
            Self::Smtp { transport, from } => (transport, from),
            Self::Log => return info!(to, link, "no SMTP server is configured; a sign-in link"),
        };
        let text = format!(
            "Somebody, probably you, requested to sign in to Rigbox.\n\n{link}\n\nThe link is good once, for {minutes} \
             minutes. If it was not you, do nothing.\n"
        );
        let letter = to.parse::<Mailbox>().map_err(|error| error.to_string()).and_then(|to| {
            Message::builder()
                .from(from.clone())
                .to(to)
                .subject("Sign in to Rigbox")
                .header(ContentType::TEXT_PLAIN)
                .body(text)
                .map_err(|error| error.to_string())
        });
        let sent = match letter {
            Ok(letter) => transport.send(letter).await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => info!(to, "sent a sign-in link"),
            Err(error) => warn!(to, error, "a sign-in link could not be sent"),
        }
    }
}

/// An e-mail address as it is stored and compared: in lower case.
pub fn parse_address(text: &str) -> Option<String> {
    let address: Address = text.trim().parse().ok()?;
    let text = address.to_string().to_lowercase();
    // RFC 5321, section 4.5.3.1.3, less the brackets.
    (text.len() <= 254).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
