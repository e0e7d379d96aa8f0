//! Every route with its action and the class that it counts as. A route cannot be added without saying both, or that it is public;
//! what is said here is also what the OpenAPI document says.

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use axum::{Extension, Router};
use rigbox_core::authz::{self, Action, TargetKind};
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, Response as Documented, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::extract::Caller;
use super::{
    App, api_keys, app_services, apps, audit, auth, doctor, document, environment, error, exec, exec_socket,
    files, health, limits, machine, networks, pages, quick_deploy, templates, users, workspace_logs,
    workspaces,
};

use crate::auth::AuthError;
use crate::bridge::Bridged;
use crate::rates::Class;

/// Who a route's answers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Programs, whoever runs them.
    Anybody,
    /// Programs that show a credential.
    Holders,
    /// People, as pages.
    People,
}

struct Routes {
    router: OpenApiRouter<App>,
    app: App,
}

impl Routes {
    fn new(app: &App) -> Self {
        Self { router: OpenApiRouter::new(), app: app.clone() }
    }

    /// For programs that watch this one: anybody, at any rate, under any name of this host.
    fn probe(self, routes: UtoipaMethodRouter<App>) -> Self {
        self.with(routes, &[MALFORMED], For::Anybody, |methods| methods)
    }

    /// For anybody, at any rate.
    fn free(self, routes: UtoipaMethodRouter<App>) -> Self {
        self.with(routes, &[MALFORMED, MISDIRECTED], For::Anybody, |methods| methods)
    }

    /// For anybody; each address has its limit.
    fn public(self, class: Class, routes: UtoipaMethodRouter<App>) -> Self {
        let state = (self.app.clone(), class);
        self.with(routes, &[MALFORMED, MISDIRECTED, TOO_MANY], For::Anybody, |methods| {
            methods.route_layer(middleware::from_fn_with_state(state, limit_address))
        })
    }

    /// A page of the console, for anybody: what it shows and does depends on who is signed in. Each address has its limit.
    fn page(self, routes: UtoipaMethodRouter<App>) -> Self {
        let app = self.app.clone();
        let limit = middleware::from_fn_with_state((app.clone(), Class::Authentication), limit_address);
        self.with(routes, &[MALFORMED, MISDIRECTED, TOO_MANY, UNAVAILABLE], For::People, |methods| {
            methods.route_layer(middleware::from_fn_with_state(app, pages::on_console)).route_layer(limit)
        })
    }

    /// For callers who may do `A` to what they name: the handler can get a permit for `A` and no other. Each user has a limit.
    fn action<A: Action>(self, class: Class, routes: UtoipaMethodRouter<App>) -> Self {
        let state = (self.app.clone(), class);
        let mut answers = vec![MALFORMED, UNAUTHORIZED, FORBIDDEN, MISDIRECTED, TOO_MANY, UNAVAILABLE];
        if A::TARGET == TargetKind::Workspace {
            answers.push(MISSING);
        }
        self.with(routes, &answers, For::Holders, |methods| {
            methods.route_layer(middleware::from_fn_with_state(state, authenticate::<A>))
        })
    }

    fn with(
        self,
        routes: UtoipaMethodRouter<App>,
        answers: &[(&str, &str)],
        readers: For,
        layer: impl FnOnce(MethodRouter<App>) -> MethodRouter<App>,
    ) -> Self {
        let (schemas, mut paths, methods) = routes;
        for item in paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            operations.into_iter().flatten().for_each(|operation| {
                describe(operation, answers, readers);
            });
        }
        Self { router: self.router.routes((schemas, paths, layer(methods))), ..self }
    }
}

async fn authenticate<A: Action>(
    State((app, class)): State<(App, Class)>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(bridged) = request.extensions().get::<Bridged>() {
        let known = app.auth.bridged(&bridged.workspace, request.method(), request.headers()).await;
        return match known {
            Ok((own, principal)) => match (app.rates.principal(&own, class), principal) {
                (Ok(allowance), Some(principal)) => {
                    request.extensions_mut().insert(Caller::<A>::new(principal));
                    limits::told(next.run(request).await, allowance)
                }
                (Ok(allowance), None) => {
                    limits::told(error::ApiError::from(AuthError::WorkspaceKey).into_response(), allowance)
                }
                (Err(too_many), _) => limits::refusal(too_many),
            },
            Err(error) => error::ApiError::from(error).into_response(),
        };
    }
    match app.auth.principal(request.method(), request.headers(), limits::address(&request)).await {
        Ok(principal) => match app.rates.principal(&principal, class) {
            Ok(allowance) => {
                request.extensions_mut().insert(Caller::<A>::new(principal));
                limits::told(next.run(request).await, allowance)
            }
            Err(too_many) => limits::refusal(too_many),
        },
        // Not the caller's fault.
        Err(error @ AuthError::Store(_)) => error::ApiError::from(error).into_response(),
        Err(error) => match app.rates.address(limits::address(&request), Class::Authentication) {
            Ok(allowance) => limits::told(error::ApiError::from(error).into_response(), allowance),
            Err(too_many) => limits::refusal(too_many),
        },
    }
}

async fn limit_address(State((app, class)): State<(App, Class)>, request: Request, next: Next) -> Response {
    match app.rates.address(limits::address(&request), class) {
        Ok(allowance) => limits::told(next.run(request).await, allowance),
        Err(too_many) => limits::refusal(too_many),
    }
}

// What is said to a request whatever it is for.
const MALFORMED: (&str, &str) =
    ("400", "The request is malformed, or has a key in its URL; the message says where");
const MISDIRECTED: (&str, &str) = ("421", "This server does not answer to that Host");
// What is said where a credential is needed.
const FORBIDDEN: (&str, &str) = ("403", "The key does not cover this, or a page of another site requested");
const MISSING: (&str, &str) = ("404", "There is no such workspace for this key");
const UNAUTHORIZED: (&str, &str) = ("401", "No valid API key");
const TOO_MANY: (&str, &str) = ("429", "Too many requests; Retry-After says when the next may come");
const UNAVAILABLE: (&str, &str) = ("503", "The node or the database does not answer");

/// What routes have in common.
fn describe(operation: &mut Operation, answers: &[(&str, &str)], readers: For) {
    if readers == For::Holders {
        let either = [document::BEARER, document::SESSION];
        let none = Vec::<String>::new;
        operation.security = Some(either.map(|scheme| SecurityRequirement::new(scheme, none())).into());
    }
    for &(status, text) in answers {
        let documented = ResponseBuilder::new().description(text).content(
            "application/json",
            utoipa::openapi::ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ApiErrorBody")))
                .build(),
        );
        // What a page says is a page, what is said before it is reached is not.
        let documented = if readers == For::People {
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
        let documented: Documented = documented.build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| documented.into());
    }
}

/// After how many seconds to come again.
fn seconds() -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
    HeaderBuilder::new().schema(Some(schema)).description(Some("Seconds after which to try again")).build()
}

/// The routes below `/api/v1`, and those beside it; one of them answers with the document of all.
pub(super) fn all(app: &App) -> (Router<App>, Router<App>) {
    let api = Routes::new(app)
        .action::<authz::ListWorkspaces>(Class::Workspaces, routes!(workspaces::list))
        .action::<authz::CreateWorkspace>(Class::Workspaces, routes!(workspaces::create))
        .action::<authz::CreateWorkspace>(Class::Workspaces, routes!(quick_deploy::deploy))
        .action::<authz::ReadWorkspace>(Class::Workspaces, routes!(workspaces::get))
        .action::<authz::DeleteWorkspace>(Class::Workspaces, routes!(workspaces::delete))
        .action::<authz::OperateWorkspace>(Class::Workspaces, routes!(workspaces::start))
        .action::<authz::OperateWorkspace>(Class::Workspaces, routes!(workspaces::stop))
        .action::<authz::OperateWorkspace>(Class::Workspaces, routes!(workspaces::cancel))
        .action::<authz::OperateWorkspace>(Class::Workspaces, routes!(workspaces::retry))
        .action::<authz::ReadNetwork>(Class::Workspaces, routes!(networks::get))
        .action::<authz::WriteNetwork>(Class::Workspaces, routes!(networks::update))
        .action::<authz::ReadLogs>(Class::Workspaces, routes!(workspace_logs::logs))
        .action::<authz::ReadLogs>(Class::Workspaces, routes!(workspace_logs::log_stream))
        .action::<authz::Exec>(Class::Workspaces, routes!(exec::exec))
        .action::<authz::Exec>(Class::Workspaces, routes!(exec_socket::exec_socket))
        .action::<authz::ReadFiles>(Class::Workspaces, routes!(files::read))
        .action::<authz::WriteFiles>(Class::Workspaces, routes!(files::write))
        .action::<authz::ReadEnv>(Class::Workspaces, routes!(environment::list))
        .action::<authz::WriteEnv>(Class::Workspaces, routes!(environment::set))
        .action::<authz::WriteEnv>(Class::Workspaces, routes!(environment::unset))
        .action::<authz::ListApps>(Class::Apps, routes!(apps::list))
        .action::<authz::ManageApp>(Class::Apps, routes!(apps::create))
        .action::<authz::ReadApp>(Class::Apps, routes!(apps::get))
        .action::<authz::ManageApp>(Class::Apps, routes!(apps::update))
        .action::<authz::ManageApp>(Class::Apps, routes!(apps::set_visibility))
        .action::<authz::ManageApp>(Class::Apps, routes!(apps::delete))
        .action::<authz::ManageApp>(Class::Apps, routes!(apps::verify_domain))
        .action::<authz::ReadApp>(Class::Apps, routes!(apps::params))
        .action::<authz::ManageApp>(Class::Apps, routes!(apps::set_params))
        .action::<authz::ManageApp>(Class::Apps, routes!(app_services::start))
        .action::<authz::ManageApp>(Class::Apps, routes!(app_services::stop))
        .action::<authz::ManageApp>(Class::Apps, routes!(app_services::restart))
        .action::<authz::ReadApp>(Class::Apps, routes!(app_services::health))
        .action::<authz::ReadApp>(Class::Apps, routes!(app_services::logs))
        .action::<authz::ReadApp>(Class::Apps, routes!(app_services::log_stream))
        .action::<authz::ReadPorts>(Class::Apps, routes!(app_services::listening_ports))
        .action::<authz::ManageApp>(Class::Apps, routes!(app_services::expose_port))
        .action::<authz::ReadAccount>(Class::Authentication, routes!(users::me))
        .action::<authz::ReadLimits>(Class::Authentication, routes!(users::limits))
        .action::<authz::ListKeys>(Class::Authentication, routes!(api_keys::list))
        .action::<authz::ManageKeys>(Class::Authentication, routes!(api_keys::create))
        .action::<authz::ManageKeys>(Class::Authentication, routes!(api_keys::rotate))
        .action::<authz::ManageKeys>(Class::Authentication, routes!(api_keys::revoke))
        .action::<authz::ReadAudit>(Class::Authentication, routes!(audit::list))
        .action::<authz::Diagnose>(Class::Workspaces, routes!(doctor::doctor))
        .public(Class::Authentication, routes!(auth::link))
        .public(Class::Authentication, routes!(auth::device))
        .public(Class::Authentication, routes!(auth::poll))
        .action::<authz::EndCredential>(Class::Authentication, routes!(auth::sign_out))
        .public(Class::Workspaces, routes!(templates::list))
        .public(Class::Workspaces, routes!(machine::capacity));
    let root = Routes::new(app)
        .probe(routes!(health::healthz))
        .probe(routes!(health::readyz))
        .free(routes!(document::document))
        .page(routes!(pages::sign_in::show, pages::sign_in::ask))
        .page(routes!(pages::sign_in::link, pages::sign_in::follow))
        .page(routes!(pages::sign_in::sign_out))
        .page(routes!(pages::open::show))
        .page(routes!(pages::device::show, pages::device::decide));
    let (api, api_document) = api.router.split_for_parts();
    let (root, root_document) = root.router.split_for_parts();
    let document = document::complete(root_document.nest("/api/v1", api_document));
    (api, root.layer(Extension(document::Published::new(&document))))
}
