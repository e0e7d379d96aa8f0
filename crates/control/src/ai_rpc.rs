//! gRPC service for the AI proxy: calls and their money, users' own keys and credentials, and the setup.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use rigbox_core::ai::provider::Provider;
use rigbox_proto::ai::ai_server::{Ai, AiServer};
use rigbox_proto::ai::{
    self, GetSetupRequest, LedgerRequests, LedgerResponses, ListModelsRequest, ListModelsResponse,
    OpenOwnCallRequest, OpenOwnCallResponse, OpenSecretRequest, OpenSecretResponse, OwnKey, Secret,
    SecretDenied, SecretReason, Setup, SetupNotice, WatchRequest, open_own_call_response,
    open_secret_response,
};
use rigbox_service::ai::ledger::{Ledger, LedgerError};
use rigbox_service::ai::models::{Model, Upstream};
use rigbox_service::ai::own_calls::{OpenedCall, OwnCalls};
use rigbox_service::ai::setup::{AiSetup, SetupSource};
use rigbox_service::proxied_secrets::{OpenError, ProxiedSecrets};
use rigbox_service::records::{OpenedSecret, OwnAiCall, ProviderKeySecret};
use secrecy::ExposeSecret;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::gateway_rpc::{id, task_stream, unavailable};
use crate::{Error, GatewaysConfig};

mod ledger;

/// Services that the proxy asks.
pub(crate) struct Service {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) own_calls: OwnCalls,
    pub(crate) secrets: ProxiedSecrets,
    pub(crate) setups: SetupSource,
}

/// Serves the AI proxy for as long as the future is polled.
pub(crate) fn listen(
    config: &GatewaysConfig,
    service: Service,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let GatewaysConfig { socket, uids } = config.clone();
    let incoming = rigbox_proto::transport::unix::listen(&socket, uids)
        .map_err(|problem| Error::Socket { path: socket.clone(), problem })?;
    let services = Server::builder().add_service(AiServer::new(service));
    Ok(async move {
        if let Err(error) = services.serve_with_incoming(incoming).await {
            tracing::error!(%error, socket = %socket.display(), "failed to serve the AI proxy");
        }
    })
}

#[tonic::async_trait]
impl Ai for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SetupNotice, Status>> + Send>>;
    type LedgerStream = Pin<Box<dyn Stream<Item = Result<LedgerResponses, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.ledger.begin_run(&request.into_inner().run_id).await.map_err(status)?;
        let mut setups = self.setups.watch();
        let stream = task_stream(move |sender| async move {
            loop {
                let next = setups.changed().await.map(|changed| SetupNotice { changed }).map_err(unavailable);
                let is_over = next.is_err();
                if sender.send(next).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_setup(&self, _: Request<GetSetupRequest>) -> Result<Response<Setup>, Status> {
        Ok(Response::new(setup(self.setups.current().await.map_err(unavailable)?)))
    }

    async fn ledger(
        &self,
        requests: Request<Streaming<LedgerRequests>>,
    ) -> Result<Response<Self::LedgerStream>, Status> {
        let responses = ledger::responses(self.ledger.clone(), requests.into_inner());
        Ok(Response::new(Box::pin(responses)))
    }

    async fn open_own_call(
        &self,
        request: Request<OpenOwnCallRequest>,
    ) -> Result<Response<OpenOwnCallResponse>, Status> {
        let outcome = match self.own_calls.open(&own_call(request.into_inner())?).await {
            Ok(OpenedCall { upstream, key }) => {
                let secret = key.expose_secret().to_owned();
                open_own_call_response::Outcome::OwnKey(OwnKey { upstream, secret })
            }
            Err(LedgerError::Denied(denial)) => {
                open_own_call_response::Outcome::Denied(ledger::denied(denial))
            }
            Err(error) => return Err(status(error)),
        };
        Ok(Response::new(OpenOwnCallResponse { outcome: Some(outcome) }))
    }

    async fn open_secret(
        &self,
        request: Request<OpenSecretRequest>,
    ) -> Result<Response<OpenSecretResponse>, Status> {
        let request = request.into_inner();
        let workspace = id(&request.workspace_id)?;
        let outcome = match self.secrets.open(&workspace, &request.name).await {
            Ok(OpenedSecret { secret, value, owner, .. }) => open_secret_response::Outcome::Secret(Secret {
                host: secret.host.name().to_owned(),
                port: secret.host.port().into(),
                header: secret.header.name().to_owned(),
                format: secret.header.format().to_owned(),
                value: value.expose_secret().to_owned(),
                owner: owner.to_string(),
            }),
            Err(OpenError::Store(problem)) => return Err(unavailable(problem)),
            Err(error) => {
                let reason = match error {
                    OpenError::NoSecret(_) => SecretReason::NoSecret,
                    _ => SecretReason::NotAllowed,
                };
                let text = error.to_string();
                open_secret_response::Outcome::Denied(SecretDenied { reason: reason.into(), text })
            }
        };
        Ok(Response::new(OpenSecretResponse { outcome: Some(outcome) }))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let request = request.into_inner();
        let (workspace, provider) = (id(&request.workspace_id)?, ledger::provider(request.provider())?);
        let models = self.ledger.models_of(&workspace, provider).await.map_err(status)?;
        Ok(Response::new(ListModelsResponse { models }))
    }
}

fn own_call(request: OpenOwnCallRequest) -> Result<OwnAiCall, Status> {
    Ok(OwnAiCall {
        workspace: id(&request.workspace_id)?,
        provider: ledger::provider(request.provider())?,
        operation: ledger::operation(request.operation())?.as_str(),
        id: request.call_id,
        run: request.run_id,
        model: request.model,
        fetches_urls: request.fetches_urls,
    })
}

fn to_provider(provider: Provider) -> ai::Provider {
    match provider {
        Provider::Anthropic => ai::Provider::Anthropic,
        Provider::OpenAi => ai::Provider::Openai,
        Provider::Google => ai::Provider::Google,
        Provider::OpenRouter => ai::Provider::Openrouter,
    }
}

fn setup(setup: AiSetup) -> Setup {
    Setup {
        stopped: setup.stopped,
        upstreams: setup.upstreams.into_iter().map(|(upstream, keys)| to_upstream(upstream, &keys)).collect(),
        models: setup.models.iter().map(to_model).collect(),
        tables: setup.tables.iter().map(|(name, text)| to_table(name, text)).collect(),
    }
}

fn to_upstream(upstream: Upstream, keys: &[ProviderKeySecret]) -> ai::Upstream {
    let key = |key: &ProviderKeySecret| ai::ProviderKey {
        id: key.id.to_string(),
        secret: key.secret.expose_secret().to_owned(),
        organization: key.organization.clone(),
    };
    ai::Upstream {
        provider: to_provider(upstream.provider).into(),
        name: upstream.name,
        base_url: upstream.base_url,
        keys: keys.iter().map(key).collect(),
        stops_billing_on_abort: upstream.stops_billing_on_abort,
    }
}

fn to_table(name: &str, text: &str) -> ai::FieldTable {
    ai::FieldTable { name: name.to_owned(), text: text.to_owned() }
}

fn to_model(model: &Model) -> ai::Model {
    let entry = &model.entry;
    ai::Model {
        id: model.id.clone(),
        upstream: model.upstream.clone(),
        context_tokens: entry.context_tokens,
        max_output_tokens: entry.max_output_tokens,
        reasons: entry.reasons,
        floor_tokens: entry.floor(),
        max_tokens_per_second: entry.max_tokens_per_second,
        embeds: entry.embeds,
        max_tokens_per_image: entry.max_tokens_per_image,
        input_price: entry.prices.rates.input,
        output_price: entry.prices.rates.output,
    }
}

fn status(error: LedgerError) -> Status {
    let text = error.to_string();
    match error {
        LedgerError::Denied(_) => Status::permission_denied(text),
        LedgerError::InvalidName => Status::invalid_argument(text),
        LedgerError::OtherRun => Status::failed_precondition(text),
        LedgerError::UnknownCall => Status::not_found(text),
        LedgerError::Unavailable => Status::unavailable(text),
    }
}
