//! JSON schema of apps.

use std::collections::BTreeMap;

use rigbox_core::app_access;
use rigbox_core::apps::AppKind;
use rigbox_core::status::Status;
use rigbox_service::records::AppWithWorkspace;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::openapi::formats;
use crate::schema::{deserialize_present, to_date};
use rigbox_service::apps::{AppChange, NewApp};

/// Audience of an app.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Visibility {
    /// Its owner.
    Private,
    /// Everyone.
    Public,
    /// Its owner and the users in its list.
    Privileged,
}

impl From<app_access::Visibility> for Visibility {
    fn from(visibility: app_access::Visibility) -> Self {
        match visibility {
            app_access::Visibility::Private => Self::Private,
            app_access::Visibility::Privileged => Self::Privileged,
            app_access::Visibility::Public => Self::Public,
        }
    }
}

impl From<Visibility> for app_access::Visibility {
    fn from(visibility: Visibility) -> Self {
        match visibility {
            Visibility::Private => Self::Private,
            Visibility::Privileged => Self::Privileged,
            Visibility::Public => Self::Public,
        }
    }
}

/// Status of an app.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AppStatus {
    /// Requests are forwarded to it.
    Active,
    /// It is stopped, or its workspace is not running.
    Inactive,
}

/// Kind of an app.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CreateAppKind {
    /// It listens on a port.
    #[default]
    Service,
    /// It does not listen.
    Cli,
}

/// App.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct App {
    id: String,
    name: String,
    /// Label below the domain for apps: the name.
    subdomain: String,
    /// URL of the app; absent for kind `cli`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    url: Option<String>,
    user_id: String,
    node_id: String,
    workspace_id: String,
    /// 0 for kind `cli`.
    port: u16,
    visibility: Visibility,
    /// Users who may open the app if it is `privileged`.
    allowed_emails: Vec<String>,
    /// Origins whose pages may send requests, by CORS.
    cors_origins: Vec<String>,
    status: AppStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    description: Option<String>,
    metadata: Value,
    /// Not available yet: always empty.
    #[schema(max_items = 0)]
    system_tags: Vec<String>,
    protocol: String,
    app_kind: CreateAppKind,
    /// True if a service of the workspace runs the app, which `start` and `stop` act on.
    managed: bool,
    /// Name of the systemd unit that runs the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    service_name: Option<String>,
    /// Not available yet: always empty.
    #[schema(max_items = 0)]
    depends_on: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    custom_domain: Option<String>,
    custom_domain_verified: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl App {
    pub(crate) fn new(found: AppWithWorkspace, url: Option<String>) -> Self {
        let AppWithWorkspace { app, node_id, status, boot: _ } = found;
        let active = !app.stopped && status == Status::Running;
        Self {
            id: app.id.to_string(),
            subdomain: app.name.to_string(),
            name: app.name.to_string(),
            url,
            user_id: app.user_id.to_string(),
            node_id,
            workspace_id: app.workspace_id.to_string(),
            port: app.port.unwrap_or(0),
            visibility: app.visibility.into(),
            allowed_emails: app.shared_with,
            cors_origins: app.cors_origins,
            status: if active { AppStatus::Active } else { AppStatus::Inactive },
            description: app.description,
            metadata: app.metadata,
            system_tags: Vec::new(),
            protocol: app.protocol,
            app_kind: match app.kind {
                AppKind::Service => CreateAppKind::Service,
                AppKind::Cli => CreateAppKind::Cli,
            },
            managed: app.service.is_some(),
            service_name: app.service,
            depends_on: Vec::new(),
            custom_domain_verified: app.domain_verified_at.is_some(),
            custom_domain: app.custom_domain.map(|domain| domain.to_string()),
            created_at: to_date(app.created_at),
            updated_at: to_date(app.updated_at),
        }
    }
}

/// One app.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetAppResponse {
    pub(crate) app: App,
}

/// App whose visibility was set.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SetVisibilityResponse {
    pub(crate) app: App,
    /// Addresses on the list that have no account yet. Only the administrator, who creates accounts, is told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) without_account: Vec<String>,
}

/// Page of apps.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListAppsResponse {
    pub(crate) apps: Vec<App>,
    /// Present if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) next_cursor: Option<String>,
}

/// Result of an operation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppMessageResponse {
    pub(crate) message: String,
}

/// App with a verified custom domain.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifyDomainResponse {
    pub(crate) message: String,
    pub(crate) app: App,
}

/// Result of an operation on an app and its service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServiceActionResponse {
    pub(crate) message: String,
    pub(crate) app: App,
    /// Name of the systemd unit; empty if there is none.
    pub(crate) service_name: String,
}

/// Specification of a new app.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateAppRequest {
    /// 3 to 40 characters of a-z, 0-9 and `-`; unique in the installation.
    #[schema(value_type = formats::AppName)]
    name: String,
    pub(crate) workspace_id: String,
    /// Port on which the app listens in the workspace; required for a `service`, and not for a `cli`.
    #[schema(minimum = 1, maximum = 65_535)]
    port: Option<u16>,
    #[serde(default)]
    app_kind: CreateAppKind,
    /// `http` if omitted.
    #[schema(value_type = Option<formats::AppProtocol>)]
    protocol: Option<String>,
    #[schema(max_length = 1_000)]
    description: Option<String>,
    /// Free-form object of at most 16 KiB.
    #[serde(default)]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    metadata: Value,
}

impl CreateAppRequest {
    pub(crate) fn into_spec(self) -> NewApp {
        NewApp {
            name: self.name,
            port: self.port,
            kind: match self.app_kind {
                CreateAppKind::Service => AppKind::Service,
                CreateAppKind::Cli => AppKind::Cli,
            },
            protocol: self.protocol,
            description: self.description,
            metadata: self.metadata,
        }
    }
}

/// Change of an app; omitted fields stay as they are.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateAppRequest {
    #[schema(value_type = Option<formats::AppName>)]
    name: Option<String>,
    /// For an app of kind `service`.
    #[schema(minimum = 1, maximum = 65_535)]
    port: Option<u16>,
    visibility: Option<Visibility>,
    /// Replaces the list.
    #[schema(value_type = Option<Vec<formats::EmailAddress>>, max_items = 100)]
    allowed_emails: Option<Vec<String>>,
    /// Replaces the list.
    #[schema(value_type = Option<Vec<formats::Origin>>, max_items = 20)]
    cors_origins: Option<Vec<String>>,
    /// `null` removes it.
    #[serde(deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, max_length = 1_000)]
    description: Option<Option<String>>,
    /// Free-form object of at most 16 KiB.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    metadata: Option<Value>,
    /// Custom domain, to be verified with `verify-domain`; `null` removes it.
    #[serde(deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<formats::AppDomain>)]
    custom_domain: Option<Option<String>>,
    /// `active` or `inactive`.
    status: Option<RequestedStatus>,
}

/// Requested status of an app.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RequestedStatus {
    Active,
    Inactive,
}

impl From<UpdateAppRequest> for AppChange {
    fn from(request: UpdateAppRequest) -> Self {
        Self {
            name: request.name,
            port: request.port,
            visibility: request.visibility.map(Into::into),
            shared_with: request.allowed_emails,
            cors_origins: request.cors_origins,
            description: request.description.map(Option::unwrap_or_default),
            metadata: request.metadata,
            custom_domain: request.custom_domain.map(Option::unwrap_or_default),
            stopped: request.status.map(|status| matches!(status, RequestedStatus::Inactive)),
            ..Self::default()
        }
    }
}

/// Requested audience of an app.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetVisibilityRequest {
    pub(crate) visibility: Visibility,
    /// Replaces the list; it stays if omitted.
    #[schema(value_type = Option<Vec<formats::EmailAddress>>, max_items = 100)]
    pub(crate) allowed_emails: Option<Vec<String>>,
}

/// Parameters of an app: environment variables of its service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppParamsResponse {
    pub(crate) params: BTreeMap<String, String>,
}

/// Parameters to set; `null` removes one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateAppParamsRequest {
    #[schema(value_type = formats::AppParamChanges)]
    pub(crate) params: BTreeMap<String, Option<String>>,
}

/// Filter and page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListAppsQuery {
    /// Only apps of this workspace.
    pub(crate) workspace_id: Option<String>,
    /// Only the app with this name.
    pub(crate) name: Option<String>,
    /// 100 if omitted, at most 1,000.
    #[param(minimum = 1, maximum = 1_000)]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(pattern = r"^[0-9]{1,18}\.[a-z0-9-]+$")]
    pub(crate) cursor: Option<String>,
}
