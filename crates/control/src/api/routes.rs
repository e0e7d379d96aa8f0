//! Every route with its action. A route cannot be added without saying which action it is, or that it is public;
//! what is said here is also what the OpenAPI document says.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use rigbox_core::permit::{self, Action};
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Ref, Response as Documented, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use super::extract::Caller;
use super::{
    App, doctor, document, error, exec, exec_socket, files, health, machine, templates, users, workspaces,
};

struct Routes {
    router: OpenApiRouter<App>,
    app: App,
}

impl Routes {
    fn new(app: &App) -> Self {
        Self { router: OpenApiRouter::new(), app: app.clone() }
    }

    /// For anybody.
    fn public(self, routes: UtoipaMethodRouter<App>) -> Self {
        Self { router: self.router.routes(routes), ..self }
    }

    /// For callers who may do `A` to what they name: the handler can get a permit for `A` and no other.
    fn action<A: Action>(self, routes: UtoipaMethodRouter<App>) -> Self {
        let (schemas, mut paths, methods) = routes;
        for item in paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
            operations.into_iter().flatten().for_each(describe);
        }
        let methods =
            methods.route_layer(middleware::from_fn_with_state(self.app.clone(), authenticate::<A>));
        Self { router: self.router.routes((schemas, paths, methods)), ..self }
    }
}

async fn authenticate<A: Action>(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match app.auth.principal(request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(Caller::<A>::new(principal));
            next.run(request).await
        }
        Err(error) => error::ApiError::from(error).into_response(),
    }
}

/// What all authenticated routes have in common.
fn describe(operation: &mut Operation) {
    operation.security = Some(vec![SecurityRequirement::new(document::BEARER, Vec::<String>::new())]);
    for (status, text) in [("401", "No valid API key"), ("503", "The node or the database does not answer")] {
        let documented: Documented = ResponseBuilder::new()
            .description(text)
            .content(
                "application/json",
                utoipa::openapi::ContentBuilder::new()
                    .schema(Some(Ref::from_schema_name("ApiErrorBody")))
                    .build(),
            )
            .build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| documented.into());
    }
}

/// The routes below `/api/v1`, those beside it, and the document of both.
pub(super) fn all(app: &App) -> (Router<App>, Router<App>, OpenApi) {
    let api = Routes::new(app)
        .action::<permit::ListWorkspaces>(routes!(workspaces::list))
        .action::<permit::CreateWorkspace>(routes!(workspaces::create))
        .action::<permit::ReadWorkspace>(routes!(workspaces::get))
        .action::<permit::DeleteWorkspace>(routes!(workspaces::delete))
        .action::<permit::OperateWorkspace>(routes!(workspaces::start))
        .action::<permit::OperateWorkspace>(routes!(workspaces::stop))
        .action::<permit::OperateWorkspace>(routes!(workspaces::cancel))
        .action::<permit::OperateWorkspace>(routes!(workspaces::retry))
        .action::<permit::Exec>(routes!(exec::exec))
        .action::<permit::Exec>(routes!(exec_socket::exec_socket))
        .action::<permit::ReadFiles>(routes!(files::read))
        .action::<permit::WriteFiles>(routes!(files::write))
        .action::<permit::ReadAccount>(routes!(users::me))
        .action::<permit::ReadAccount>(routes!(users::limits))
        .action::<permit::Diagnose>(routes!(doctor::doctor))
        .public(routes!(templates::list))
        .public(routes!(machine::capacity));
    let root = Routes::new(app).public(routes!(health::healthz)).public(routes!(health::readyz));
    let (api, api_document) = api.router.split_for_parts();
    let (root, root_document) = root.router.split_for_parts();
    let document = document::complete(root_document.nest("/api/v1", api_document));
    (api, root, document)
}
