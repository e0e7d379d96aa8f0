//! Routes, each with its action and its rate-limit class. A route cannot be added without naming both, or
//! declaring it public. The OpenAPI document is completed from the same declarations.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use axum::{Extension, Router};
use rigbox_core::authz::{self, Action, Denied, TargetKind};
use rigbox_service::identity::authenticate::AuthError;
use rigbox_service::rate_limits::RateClass;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, Response as DocumentedResponse, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::context::ApiContext;
use crate::error::ApiError;
use crate::middleware::{credentials, open_request, rate_limit};
use crate::server::WorkspacePeer;
use crate::v1::{
    ai, ai_config, ai_proxy, api_keys, apps, audit, auth, capacity, doctor, environment, exec, files,
    network, processes, proxied_secrets, quick_deploy, ssh_keys, ssh_settings, ssh_stream, templates, users,
    workspaces,
};
use crate::{console, health, openapi, ssh_known_hosts};

/// Audience of a route, which decides the form of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Programs without a credential.
    Anyone,
    /// Programs with a credential.
    Authenticated,
    /// People, who get pages.
    People,
}

struct Routes {
    router: OpenApiRouter<ApiContext>,
    /// Routes on the bridges of workspaces: those that a method below adds.
    bridge: Router<ApiContext>,
    context: ApiContext,
}

impl Routes {
    fn new(context: &ApiContext) -> Self {
        Self { router: OpenApiRouter::new(), bridge: Router::new(), context: context.clone() }
    }

    /// Adds a health probe: no credential, no rate limit, any host name.
    fn probe(self, routes: UtoipaMethodRouter<ApiContext>) -> Self {
        self.with(routes, &[MALFORMED], Audience::Anyone, |methods| methods)
    }

    /// Adds a route without credential and rate limit.
    fn unlimited(self, routes: UtoipaMethodRouter<ApiContext>) -> Self {
        self.with(routes, &[MALFORMED, MISDIRECTED], Audience::Anyone, |methods| methods)
    }

    /// Adds a route without credential, with a rate limit per address.
    fn public(self, class: RateClass, routes: UtoipaMethodRouter<ApiContext>) -> Self {
        let state = (self.context.clone(), class);
        self.with(routes, &[MALFORMED, MISDIRECTED, RATE_LIMITED], Audience::Anyone, |methods| {
            methods.route_layer(axum::middleware::from_fn_with_state(state, limit_address))
        })
    }

    /// Adds a page of the console. Its content depends on who is signed in, and so does the rate limit: per user, or per address.
    fn page(self, routes: UtoipaMethodRouter<ApiContext>) -> Self {
        let context = self.context.clone();
        let limit =
            axum::middleware::from_fn_with_state((context.clone(), RateClass::Authentication), limit_visitor);
        self.with(routes, &[MALFORMED, MISDIRECTED, RATE_LIMITED, UNAVAILABLE], Audience::People, |methods| {
            methods
                .route_layer(axum::middleware::from_fn_with_state(context, console::require_console_host))
                .route_layer(limit)
        })
    }

    /// Adds a route for callers who may perform `A`: the handler can get a permit for `A` and for no other
    /// action. The rate limit is per user.
    fn action<A: Action>(self, class: RateClass, routes: UtoipaMethodRouter<ApiContext>) -> Self {
        let state = (self.context.clone(), class);
        let mut responses = vec![MALFORMED, UNAUTHORIZED, FORBIDDEN, MISDIRECTED, RATE_LIMITED, UNAVAILABLE];
        if A::TARGET == TargetKind::Workspace {
            responses.push(NOT_FOUND);
        }
        let own = self.on_bridge::<A>(class, &routes);
        own.with(routes, &responses, Audience::Authenticated, |methods| {
            methods.route_layer(axum::middleware::from_fn_with_state(state, authenticate::<A>))
        })
    }

    /// Adds a route without credential that workspaces may use too, where each has a rate limit of its own.
    fn public_and_bridge(self, class: RateClass, routes: UtoipaMethodRouter<ApiContext>) -> Self {
        // Any action that every workspace may perform.
        self.on_bridge::<authz::ListWorkspaces>(class, &routes).public(class, routes)
    }

    fn on_bridge<A: Action>(self, class: RateClass, routes: &UtoipaMethodRouter<ApiContext>) -> Self {
        let (_, paths, methods) = routes;
        let state = (self.context.clone(), class);
        let layer = axum::middleware::from_fn_with_state(state, authenticate_peer::<A>);
        let methods = methods.clone().route_layer(layer);
        let add = |bridge: Router<ApiContext>, path: &String| bridge.route(path, methods.clone());
        Self { bridge: paths.paths.keys().fold(self.bridge, add), ..self }
    }

    fn with(
        self,
        routes: UtoipaMethodRouter<ApiContext>,
        responses: &[(&str, &str)],
        audience: Audience,
        layer: impl FnOnce(MethodRouter<ApiContext>) -> MethodRouter<ApiContext>,
    ) -> Self {
        let (schemas, mut paths, methods) = routes;
        for item in paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            operations.into_iter().flatten().for_each(|operation| {
                describe(operation, responses, audience);
            });
        }
        Self { router: self.router.routes((schemas, paths, layer(methods))), ..self }
    }
}

async fn authenticate<A: Action>(
    State((context, class)): State<(ApiContext, RateClass)>,
    request: Request,
    next: Next,
) -> Response {
    // Read before the credential, so that no change in between is missed.
    let epoch = context.open_requests.epoch();
    let from = rate_limit::address(&request);
    let (method, headers) = (request.method(), request.headers());
    match credentials::authenticate(&context.authenticator, &context.console, method, headers, from).await {
        Ok(caller) => match context.rates.principal(&caller.principal, class) {
            Ok(allowance) => {
                let response = open_request::run::<A>(&context, epoch, caller, request, next).await;
                rate_limit::with_headers(response, allowance)
            }
            Err(exceeded) => rate_limit::refusal(exceeded),
        },
        // Not the caller's fault.
        Err(error @ AuthError::Store(_)) => ApiError::from(error).into_response(),
        Err(error) => match context.rates.address(from, RateClass::Authentication) {
            Ok(allowance) => rate_limit::with_headers(ApiError::from(error).into_response(), allowance),
            Err(exceeded) => rate_limit::refusal(exceeded),
        },
    }
}

/// Authenticates the workspace at the other end of its bridge. An action that is not for workspaces is refused here, whatever its handler
/// would do.
async fn authenticate_peer<A: Action>(
    State((context, class)): State<(ApiContext, RateClass)>,
    Extension(peer): Extension<WorkspacePeer>,
    request: Request,
    next: Next,
) -> Response {
    // Read before the credential, so that no change in between is missed.
    let epoch = context.open_requests.epoch();
    let token = match credentials::bearer_token(request.headers()) {
        Ok(token) => token,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let is_safe = request.method().is_safe();
    let (own, caller) = match context.authenticator.workspace(&peer.workspace, token, is_safe).await {
        Ok(authenticated) => authenticated,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let allowance = match context.rates.principal(&own, class) {
        Ok(allowance) => allowance,
        Err(exceeded) => return rate_limit::refusal(exceeded),
    };
    let response = match caller {
        Some(caller) if A::SELF_SERVICE => {
            open_request::run::<A>(&context, epoch, caller, request, next).await
        }
        Some(caller) => {
            context.audit_recorder.refused(&caller.principal, A::NAME, peer.workspace.as_str());
            let (scope, least_role) = (caller.principal.scope, A::MIN_ROLE);
            ApiError::from(Denied::OutOfScope { action: A::NAME, scope, least_role }).into_response()
        }
        None => ApiError::from(AuthError::WorkspaceKey).into_response(),
    };
    rate_limit::with_headers(response, allowance)
}

async fn limit_address(
    State((context, class)): State<(ApiContext, RateClass)>,
    request: Request,
    next: Next,
) -> Response {
    match context.rates.address(rate_limit::address(&request), class) {
        Ok(allowance) => rate_limit::with_headers(next.run(request).await, allowance),
        Err(exceeded) => rate_limit::refusal(exceeded),
    }
}

async fn limit_visitor(
    State((context, class)): State<(ApiContext, RateClass)>,
    request: Request,
    next: Next,
) -> Response {
    let from = rate_limit::address(&request);
    let user =
        credentials::signed_in(&context.authenticator, &context.console, request.headers(), from).await;
    let allowed = match user {
        Ok(Some(user)) => context.rates.principal(&user, class),
        // If the database does not answer, the page says so.
        Ok(None) | Err(_) => context.rates.address(from, class),
    };
    match allowed {
        Ok(allowance) => rate_limit::with_headers(next.run(request).await, allowance),
        Err(exceeded) => rate_limit::refusal(exceeded),
    }
}

// Responses that any route may give.
const MALFORMED: (&str, &str) =
    ("400", "The request is malformed, or its URL contains a key; the message names the problem");
const MISDIRECTED: (&str, &str) = ("421", "Unknown host");
// Responses of routes that need a credential.
const FORBIDDEN: (&str, &str) =
    ("403", "The key does not allow this, or the request comes from a page of another site");
const NOT_FOUND: (&str, &str) = ("404", "No such workspace for this key");
const UNAUTHORIZED: (&str, &str) = ("401", "No valid API key");
const RATE_LIMITED: (&str, &str) = ("429", "Too many requests; see Retry-After");
const UNAVAILABLE: (&str, &str) = ("503", "The node or the database does not answer");

/// Adds to an operation what all routes of its kind have in common.
fn describe(operation: &mut Operation, responses: &[(&str, &str)], audience: Audience) {
    if audience == Audience::Authenticated {
        let either = [openapi::BEARER, openapi::SESSION];
        let none = Vec::<String>::new;
        operation.security = Some(either.map(|scheme| SecurityRequirement::new(scheme, none())).into());
    } else {
        // Said explicitly, because validators take silence for an oversight.
        operation.security = Some(Vec::new());
    }
    for &(status, text) in responses {
        let documented = ResponseBuilder::new().description(text).content(
            "application/json",
            utoipa::openapi::ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ApiErrorBody")))
                .build(),
        );
        // Pages respond with HTML, the checks before them with JSON.
        let documented = if audience == Audience::People {
            let text = ObjectBuilder::new().schema_type(Type::String).build();
            let page = utoipa::openapi::ContentBuilder::new().schema(Some(text)).build();
            documented.content("text/html", page)
        } else {
            documented
        };
        let documented = match status {
            "429" | "503" => documented.header("Retry-After", seconds()),
            _ => documented,
        };
        let documented: DocumentedResponse = documented.build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| documented.into());
    }
}

/// Returns the documentation of `Retry-After`.
fn seconds() -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some("Seconds after which to try again")).build()
}

/// Returns the routes below `/api/v1` and those beside it, including the one that serves the OpenAPI document.
pub(crate) fn all(context: &ApiContext) -> (Router<ApiContext>, Router<ApiContext>) {
    let root = Routes::new(context)
        .probe(routes!(health::healthz))
        .probe(routes!(health::readyz))
        .unlimited(routes!(openapi::document))
        .unlimited(routes!(ssh_known_hosts::known_hosts))
        .page(routes!(console::home))
        .page(routes!(console::sign_in::show, console::sign_in::ask))
        .page(routes!(console::sign_in::link, console::sign_in::follow))
        .page(routes!(console::sign_in::sign_out))
        .page(routes!(console::open::show))
        .page(routes!(console::device::show, console::device::decide));
    let (api, api_document) = api(context).router.split_for_parts();
    let (root, root_document) = root.router.split_for_parts();
    let document = openapi::complete(root_document.nest("/api/v1", api_document));
    (api, root.layer(Extension(openapi::PublishedDocument::new(&document))))
}

/// Returns the routes on the bridges of workspaces.
pub(crate) fn bridge(context: &ApiContext) -> Router<ApiContext> {
    api(context).bridge
}

fn api(context: &ApiContext) -> Routes {
    Routes::new(context)
        .action::<authz::ListWorkspaces>(RateClass::Workspaces, routes!(workspaces::list))
        .action::<authz::CreateWorkspace>(RateClass::Workspaces, routes!(workspaces::create))
        .action::<authz::CreateWorkspace>(RateClass::Workspaces, routes!(quick_deploy::deploy))
        .action::<authz::ReadWorkspace>(RateClass::Workspaces, routes!(workspaces::get))
        .action::<authz::DeleteWorkspace>(RateClass::Workspaces, routes!(workspaces::delete))
        .action::<authz::OperateWorkspace>(RateClass::Workspaces, routes!(workspaces::start))
        .action::<authz::OperateWorkspace>(RateClass::Workspaces, routes!(workspaces::stop))
        .action::<authz::OperateWorkspace>(RateClass::Workspaces, routes!(workspaces::cancel))
        .action::<authz::OperateWorkspace>(RateClass::Workspaces, routes!(workspaces::retry))
        .action::<authz::ReadNetwork>(RateClass::Workspaces, routes!(network::get))
        .action::<authz::WriteNetwork>(RateClass::Workspaces, routes!(network::update))
        .action::<authz::ReadLogs>(RateClass::Workspaces, routes!(workspaces::logs::logs))
        .action::<authz::ReadLogs>(RateClass::Workspaces, routes!(workspaces::logs::log_stream))
        .action::<authz::Exec>(RateClass::Workspaces, routes!(exec::exec))
        .action::<authz::Exec>(RateClass::Workspaces, routes!(exec::socket::exec_socket))
        .action::<authz::Exec>(RateClass::Workspaces, routes!(processes::list, processes::start))
        .action::<authz::Exec>(RateClass::Workspaces, routes!(processes::output))
        .action::<authz::Exec>(RateClass::Workspaces, routes!(processes::signal))
        .action::<authz::ReadFiles>(RateClass::Workspaces, routes!(files::read))
        .action::<authz::WriteFiles>(RateClass::Workspaces, routes!(files::write))
        .action::<authz::WriteFiles>(RateClass::Workspaces, routes!(files::tree::remove))
        .action::<authz::ReadFiles>(RateClass::Workspaces, routes!(files::tree::stat))
        .action::<authz::ReadFiles>(RateClass::Workspaces, routes!(files::tree::list))
        .action::<authz::ReadFiles>(RateClass::Workspaces, routes!(files::tree::watch))
        .action::<authz::WriteFiles>(RateClass::Workspaces, routes!(files::tree::make_directory))
        .action::<authz::WriteFiles>(RateClass::Workspaces, routes!(files::tree::rename))
        .action::<authz::ReadEnv>(RateClass::Workspaces, routes!(environment::list))
        .action::<authz::WriteEnv>(RateClass::Workspaces, routes!(environment::set))
        .action::<authz::WriteEnv>(RateClass::Workspaces, routes!(environment::unset))
        .action::<authz::ListApps>(RateClass::Apps, routes!(apps::list))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::create))
        .action::<authz::ReadApp>(RateClass::Apps, routes!(apps::get))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::update))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::set_visibility))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::delete))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::verify_domain))
        .action::<authz::ReadApp>(RateClass::Apps, routes!(apps::params))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::set_params))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::services::set_service))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::services::start))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::services::stop))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::services::restart))
        .action::<authz::ReadApp>(RateClass::Apps, routes!(apps::services::health))
        .action::<authz::ReadApp>(RateClass::Apps, routes!(apps::services::logs))
        .action::<authz::ReadApp>(RateClass::Apps, routes!(apps::services::log_stream))
        .action::<authz::ReadPorts>(RateClass::Apps, routes!(apps::services::listening_ports))
        .action::<authz::ManageApp>(RateClass::Apps, routes!(apps::services::expose_port))
        .action::<authz::ReadAccount>(RateClass::Authentication, routes!(users::me))
        .action::<authz::ReadLimits>(RateClass::Authentication, routes!(users::limits))
        .action::<authz::ListKeys>(RateClass::Authentication, routes!(api_keys::list))
        .action::<authz::ManageKeys>(RateClass::Authentication, routes!(api_keys::create))
        .action::<authz::ManageKeys>(RateClass::Authentication, routes!(api_keys::rotate))
        .action::<authz::ManageKeys>(RateClass::Authentication, routes!(api_keys::revoke))
        .action::<authz::ListSshKeys>(RateClass::Authentication, routes!(ssh_keys::list))
        .action::<authz::ManageSshKeys>(RateClass::Authentication, routes!(ssh_keys::add))
        .action::<authz::ManageSshKeys>(RateClass::Authentication, routes!(ssh_keys::remove))
        .action::<authz::ReadAuthorizedKeys>(RateClass::Workspaces, routes!(ssh_keys::of_workspace))
        .action::<authz::SyncAuthorizedKeys>(RateClass::Workspaces, routes!(ssh_keys::sync))
        .action::<authz::ReadWorkspace>(RateClass::Workspaces, routes!(ssh_settings::get))
        .action::<authz::OperateWorkspace>(RateClass::Workspaces, routes!(ssh_settings::update))
        .action::<authz::OpenSsh>(RateClass::Workspaces, routes!(ssh_stream::open))
        .action::<authz::ReadAi>(RateClass::Authentication, routes!(ai::credits))
        .action::<authz::ReadAi>(RateClass::Authentication, routes!(ai::usage))
        .action::<authz::ManageAi>(RateClass::Authentication, routes!(ai::set_mode))
        .action::<authz::ReadWorkspace>(RateClass::Workspaces, routes!(ai::workspace_mode))
        .action::<authz::OperateWorkspace>(RateClass::Workspaces, routes!(ai::set_workspace_mode))
        .action::<authz::ReadAi>(RateClass::Authentication, routes!(ai_config::defaults))
        .action::<authz::ManageAi>(RateClass::Authentication, routes!(ai_config::set_defaults))
        .action::<authz::ReadEnv>(RateClass::Workspaces, routes!(ai_config::of_workspace))
        .action::<authz::WriteEnv>(RateClass::Workspaces, routes!(ai_config::set_workspace))
        .action::<authz::ReadWorkspace>(RateClass::Workspaces, routes!(ai_proxy::get))
        .action::<authz::SwitchAiProxy>(RateClass::Workspaces, routes!(ai_proxy::switch))
        .action::<authz::ReadSecrets>(RateClass::Authentication, routes!(proxied_secrets::list))
        .action::<authz::ManageSecrets>(RateClass::Authentication, routes!(proxied_secrets::set))
        .action::<authz::ManageSecrets>(RateClass::Authentication, routes!(proxied_secrets::remove))
        .action::<authz::ReadAudit>(RateClass::Authentication, routes!(audit::list))
        .action::<authz::Diagnose>(RateClass::Workspaces, routes!(doctor::doctor))
        .public(RateClass::Authentication, routes!(auth::link))
        .public(RateClass::Authentication, routes!(auth::device))
        .public(RateClass::Authentication, routes!(auth::poll))
        .action::<authz::EndCredential>(RateClass::Authentication, routes!(auth::sign_out))
        .public_and_bridge(RateClass::Workspaces, routes!(templates::list))
        .public_and_bridge(RateClass::Workspaces, routes!(capacity::capacity))
}
