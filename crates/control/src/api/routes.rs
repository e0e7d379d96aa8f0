//! Every route with its action and the class that it counts as. A route cannot be added without saying both, or that it is public;
//! what is said here is also what the OpenAPI document says.

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use axum::{Extension, Router};
use rigbox_core::permit::{self, Action, Kind, Role};
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, Response as Documented, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::extract::Caller;
use super::{
    App, api_keys, audit, doctor, document, error, exec, exec_socket, files, health, limits, machine,
    templates, users, workspaces,
};

use crate::auth::AuthError;
use crate::rates::Class;

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
        self.with(routes, &[MALFORMED], false, |methods| methods)
    }

    /// For anybody, at any rate.
    fn free(self, routes: UtoipaMethodRouter<App>) -> Self {
        self.with(routes, &[MALFORMED, MISDIRECTED], false, |methods| methods)
    }

    /// For anybody; each address has its limit.
    fn public(self, class: Class, routes: UtoipaMethodRouter<App>) -> Self {
        let state = (self.app.clone(), class);
        self.with(routes, &[MALFORMED, MISDIRECTED, TOO_MANY], false, |methods| {
            methods.route_layer(middleware::from_fn_with_state(state, limit_address))
        })
    }

    /// For callers who may do `A` to what they name: the handler can get a permit for `A` and no other. Each user has a limit.
    fn action<A: Action>(self, class: Class, routes: UtoipaMethodRouter<App>) -> Self {
        let state = (self.app.clone(), class);
        let mut answers = vec![MALFORMED, UNAUTHORIZED, MISDIRECTED, TOO_MANY, UNAVAILABLE];
        // Some credential may not do everything here that another may.
        if A::SCOPED != Some(Role::Read) || !A::WITHIN || A::ON == Kind::Installation {
            answers.push(FORBIDDEN);
        }
        if A::ON == Kind::Workspace {
            answers.push(MISSING);
        }
        self.with(routes, &answers, true, |methods| {
            methods.route_layer(middleware::from_fn_with_state(state, authenticate::<A>))
        })
    }

    fn with(
        self,
        routes: UtoipaMethodRouter<App>,
        answers: &[(&str, &str)],
        secured: bool,
        layer: impl FnOnce(MethodRouter<App>) -> MethodRouter<App>,
    ) -> Self {
        let (schemas, mut paths, methods) = routes;
        for item in paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            operations.into_iter().flatten().for_each(|operation| describe(operation, answers, secured));
        }
        Self { router: self.router.routes((schemas, paths, layer(methods))), ..self }
    }
}

async fn authenticate<A: Action>(
    State((app, class)): State<(App, Class)>,
    mut request: Request,
    next: Next,
) -> Response {
    match app.auth.principal(request.headers(), limits::address(&request)).await {
        Ok(principal) => match app.rates.user(&principal, class) {
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
const FORBIDDEN: (&str, &str) = ("403", "The key does not cover this");
const MISSING: (&str, &str) = ("404", "There is no such workspace for this key");
const UNAUTHORIZED: (&str, &str) = ("401", "No valid API key");
const TOO_MANY: (&str, &str) = ("429", "Too many requests; Retry-After says when the next may come");
const UNAVAILABLE: (&str, &str) = ("503", "The node or the database does not answer");

/// What routes have in common.
fn describe(operation: &mut Operation, answers: &[(&str, &str)], secured: bool) {
    if secured {
        operation.security = Some(vec![SecurityRequirement::new(document::BEARER, Vec::<String>::new())]);
    }
    for &(status, text) in answers {
        let documented = ResponseBuilder::new().description(text).content(
            "application/json",
            utoipa::openapi::ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ApiErrorBody")))
                .build(),
        );
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
        .action::<permit::ListWorkspaces>(Class::Workspaces, routes!(workspaces::list))
        .action::<permit::CreateWorkspace>(Class::Workspaces, routes!(workspaces::create))
        .action::<permit::ReadWorkspace>(Class::Workspaces, routes!(workspaces::get))
        .action::<permit::DeleteWorkspace>(Class::Workspaces, routes!(workspaces::delete))
        .action::<permit::OperateWorkspace>(Class::Workspaces, routes!(workspaces::start))
        .action::<permit::OperateWorkspace>(Class::Workspaces, routes!(workspaces::stop))
        .action::<permit::OperateWorkspace>(Class::Workspaces, routes!(workspaces::cancel))
        .action::<permit::OperateWorkspace>(Class::Workspaces, routes!(workspaces::retry))
        .action::<permit::Exec>(Class::Workspaces, routes!(exec::exec))
        .action::<permit::Exec>(Class::Workspaces, routes!(exec_socket::exec_socket))
        .action::<permit::ReadFiles>(Class::Workspaces, routes!(files::read))
        .action::<permit::WriteFiles>(Class::Workspaces, routes!(files::write))
        .action::<permit::ReadAccount>(Class::Authentication, routes!(users::me))
        .action::<permit::ReadLimits>(Class::Authentication, routes!(users::limits))
        .action::<permit::ListKeys>(Class::Authentication, routes!(api_keys::list))
        .action::<permit::ManageKeys>(Class::Authentication, routes!(api_keys::create))
        .action::<permit::ManageKeys>(Class::Authentication, routes!(api_keys::rotate))
        .action::<permit::ManageKeys>(Class::Authentication, routes!(api_keys::revoke))
        .action::<permit::ReadAudit>(Class::Authentication, routes!(audit::list))
        .action::<permit::Diagnose>(Class::Workspaces, routes!(doctor::doctor))
        .public(Class::Workspaces, routes!(templates::list))
        .public(Class::Workspaces, routes!(machine::capacity));
    let root = Routes::new(app)
        .probe(routes!(health::healthz))
        .probe(routes!(health::readyz))
        .free(routes!(document::document));
    let (api, api_document) = api.router.split_for_parts();
    let (root, root_document) = root.router.split_for_parts();
    let document = document::complete(root_document.nest("/api/v1", api_document));
    (api, root.layer(Extension(document::Published::new(&document))))
}
