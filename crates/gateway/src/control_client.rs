//! Client of control's gateway service: every request has a timeout. Each kind of question has places of its own, and each client a share
//! of them, so that neither one client nor one kind of question, nor reviews of what is open, hold up the others.

use std::path::Path;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::gateway::changes_client::ChangesClient;
use rigbox_proto::transport::client::Channel;
use rigbox_proto::transport::unix;
use rigbox_shares::{AddressBlock, Bounds, Place, Shares};
use tonic::Status;

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Concurrent questions of one kind, in all and of one client.
const QUESTIONS: Bounds = Bounds { total: 128, per_key: 16 };
/// Concurrent questions about what is open, in all and of one workspace.
const REVIEWS: Bounds = Bounds { total: 64, per_key: 32 };

/// Kind of a question, and on whose behalf it is asked.
#[derive(Debug, Clone, Copy)]
pub enum Question<'a> {
    /// The app behind a host.
    Route(AddressBlock),
    /// The identity behind a credential.
    Identity(AddressBlock),
    /// Completion of a sign-in.
    Handoff(AddressBlock),
    /// The key or the signature of a log-in by SSH.
    LogIn(AddressBlock),
    /// Grounds of an active grant.
    Review(&'a WorkspaceId),
}

/// Place of a question, free again when dropped.
enum QuestionPlace {
    Client { _place: Place<AddressBlock> },
    Review { _place: Place<WorkspaceId> },
}

/// Connection to control.
#[derive(Debug)]
pub struct ControlClient {
    channel: Channel,
    routes: Shares<AddressBlock>,
    identities: Shares<AddressBlock>,
    handoffs: Shares<AddressBlock>,
    log_ins: Shares<AddressBlock>,
    reviews: Shares<WorkspaceId>,
}

impl ControlClient {
    /// Connects to control's socket for gateways, lazily.
    pub fn new(socket: &Path) -> Self {
        Self {
            channel: unix::channel(socket),
            routes: Shares::new(QUESTIONS),
            identities: Shares::new(QUESTIONS),
            handoffs: Shares::new(QUESTIONS),
            log_ins: Shares::new(QUESTIONS),
            reviews: Shares::new(REVIEWS),
        }
    }

    /// Returns the client of the watch, which has no overall timeout.
    pub(crate) fn changes(&self) -> ChangesClient<Channel> {
        ChangesClient::new(self.channel.clone())
    }

    /// Asks one question, over the channel.
    ///
    /// # Errors
    /// The status of the reply, or `DeadlineExceeded`.
    pub async fn request<T>(
        &self,
        question: Question<'_>,
        request: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        let reply = async {
            let _place = self.place(question).await;
            request(self.channel.clone()).await
        };
        let reply = tokio::time::timeout(REQUEST_TIMEOUT, reply).await;
        Ok(reply.map_err(|_| Status::deadline_exceeded("no reply within 5 s"))??.into_inner())
    }

    /// Waits for a place.
    async fn place(&self, question: Question<'_>) -> QuestionPlace {
        let (pool, client) = match question {
            Question::Route(client) => (&self.routes, client),
            Question::Identity(client) => (&self.identities, client),
            Question::Handoff(client) => (&self.handoffs, client),
            Question::LogIn(client) => (&self.log_ins, client),
            Question::Review(workspace) => {
                return QuestionPlace::Review { _place: self.reviews.wait(workspace.clone()).await };
            }
        };
        QuestionPlace::Client { _place: pool.wait(client).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_client_and_one_kind_of_question_leave_places_to_others() {
        let client = ControlClient::new(Path::new("/nonexistent"));
        let [busy, other] = ["192.0.2.1", "192.0.2.2"]
            .map(|address| AddressBlock::from(address.parse::<std::net::IpAddr>().unwrap()));
        let at_once = async |question: Question<'_>| {
            tokio::time::timeout(Duration::from_millis(20), client.place(question)).await.ok()
        };
        let mut held = Vec::new();
        while let Some(place) = at_once(Question::Route(busy)).await {
            held.push(place);
        }
        assert_eq!(held.len(), QUESTIONS.per_key);
        assert!(at_once(Question::Route(other)).await.is_some());
        assert!(at_once(Question::Identity(busy)).await.is_some());
        assert!(at_once(Question::Handoff(busy)).await.is_some());
        assert!(at_once(Question::Review(&WorkspaceId::from_random([1; 5]))).await.is_some());
    }
}
