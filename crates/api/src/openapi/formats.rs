//! Schemas of values that the server checks beyond their type: names, addresses, variables. They are for the
//! document only: requests are parsed as plain text, and checked by the services.

use std::borrow::Cow;

use rigbox_core::apps::RESERVED_NAMES;
use rigbox_core::environment::{MASKED_VALUE, MAX_VALUE_LEN, RESERVED_VARIABLES};
use rigbox_core::{signals, templates};
use rigbox_service::apps::MAX_PARAM_LEN;
use rigbox_service::ssh_keys::MAX_KEY_LINE_LEN;
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{ArrayBuilder, OneOfBuilder, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Label of a domain.
const LABEL: &str = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
/// Last label of a domain, which is not a number as in IPv4 addresses.
const TOP: &str = "[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
/// Port, from 1 to 65535.
const PORT: &str = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// Part of an email address before `@`, between its dots (`atext` of RFC 5322).
const ATOM: &str = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
/// No control characters.
const PRINTABLE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

/// Public key in examples.
pub(crate) const PUBLIC_KEY_EXAMPLE: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINzDTkJ/Qj8U6p6Vt76Q8GWs+YJVqzBcInAJ6CcLfDb9 ada@laptop";

macro_rules! formats {
    ($(#[doc = $doc:literal] $name:ident: $schema:expr;)*) => {$(
        #[doc = $doc]
        pub(crate) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                Schema::from($schema.description(Some($doc.trim()))).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

formats! {
    /// Name of a workspace, unique among those of its owner
    WorkspaceName: text("^(?!ws-[a-z2-7]{8}$)[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$");
    /// Name of an app, unique in the installation; some names are reserved
    AppName: text(&format!("^(?!(?:{})$)(?!ap-[a-z2-7]{{8}}$)(?!..--)[a-z0-9][a-z0-9-]{{1,38}}[a-z0-9]$", RESERVED_NAMES.join("|")));
    /// Id of a template
    TemplateId: one_of(templates::ALL.iter().map(|template| template.id));
    /// Image of a template
    TemplateImage: one_of(templates::ALL.iter().map(|template| template.image));
    /// Email address
    EmailAddress: text(&format!("^(?=[^@]{{1,64}}@){ATOM}(?:\\.{ATOM})*@(?:{LABEL}\\.)+{TOP}$"))
        .format(Some(SchemaFormat::Custom("email".to_owned())))
        .max_length(Some(254));
    /// Domain that serves an app; an empty text for none
    AppDomain: text(&format!("^(?:(?:{LABEL}\\.)+{TOP})?$")).max_length(Some(253));
    /// Origin of a page, as in the header `Origin`
    Origin: text(&format!("^https?://{LABEL}(?:\\.{LABEL})*(?::[0-9]{{1,5}})?$")).max_length(Some(253));
    /// Domain, or `*.` and a domain for the names below it, with a port other than 25 or without
    EgressDomain: text(&format!("^(?:\\*\\.)?(?:{}\\.)+{TOP}(?::(?!25$){PORT})?$", LABEL.replace("0-9", "0-9_")))
        .max_length(Some(251));
    /// IPv4 network, which has to be public, or one IPv4 address
    EgressNetwork: text("^(?:[0-9]{1,3}\\.){3}[0-9]{1,3}(?:/(?:[0-9]|[12][0-9]|3[0-2]))?$");
    /// Environment variables: letters, digits and `_` in names, no NUL in values
    EnvVars: map(
        variable_name(),
        text(&format!("^(?!{}$)[^\\u0000]*$", MASKED_VALUE.replace('*', "\\*"))).max_length(Some(MAX_VALUE_LEN)),
    );
    /// Parameters to set; `null` removes one
    AppParamChanges: params(SchemaType::from_iter([Type::String, Type::Null]));
    /// Environment variables of an app's command, which become parameters of the app
    AppParams: params(Type::String.into());
    /// Command line for `bash -lc`
    CommandLine: text("^[^\\u0000]*[!-~][^\\u0000]*$");
    /// Name of a signal
    SignalName: one_of(signals::NAMES.into_iter());
    /// Environment of one command
    CommandEnv: map(text("^[^=\\u0000]+$"), text("^[^\\u0000]*$"));
    /// Program and arguments, or a command line for `bash -lc`
    Command: OneOfBuilder::new()
        .item(ArrayBuilder::new().items(text("^[^\\u0000]*$")).min_items(Some(1)))
        .item(text("^[^\\u0000]*[!-~][^\\u0000]*$"));
    /// Protocol of an app
    AppProtocol: one_of(["grpc", "http", "https", "tcp", "ws"].into_iter());
    /// Parameters of a template's apps, by their names in the template
    TemplateParams: map(
        one_of(templates::ALL.iter().flat_map(|template| template.expected_apps).map(|app| app.name)),
        params(Type::String.into()),
    );
    /// Role of a key in its workspaces
    KeyRole: one_of(["read", "operate"].into_iter());
    /// One line as in a `.pub` file: type, base64 and comment; before a type `sk-...` may stand `no-touch-required`
    PublicKeyLine: text(&format!(
        "^\\s*(?:(?:no-touch-required[ \\t]+)?sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\\.com|ssh-(?:ed25519|rsa|dss)|\
         ecdsa-sha2-nistp(?:256|384|521))[ \\t]+[A-Za-z0-9+/]+={{0,2}}(?:[ \\t]+{}*)?\\s*$",
        "[^\\u0000-\\u001f\\u007f-\\u009f]"
    ))
    .max_length(Some(MAX_KEY_LINE_LEN));
    /// User in the workspace
    GuestUser: one_of(["developer", "root"].into_iter());
    /// Output of a command
    OutputStream: one_of(["stderr", "stdout"].into_iter());
    /// Event of a log, as sent by servers
    LogEvent: of_type(Type::Object.into())
        .property("id", of_type(Type::String.into()).description(Some("Cursor of the line")))
        .property("data", log_line())
        .required("id")
        .required("data");
    /// Bytes
    Bytes: of_type(Type::String.into()).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
}

fn of_type(schema_type: SchemaType) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(schema_type)
}

fn text(pattern: &str) -> ObjectBuilder {
    of_type(Type::String.into()).pattern(Some(pattern))
}

/// Returns the line of a log as text.
fn log_line() -> ObjectBuilder {
    of_type(Type::String.into())
        .description(Some("Line as JSON"))
        .content_media_type("application/json")
        .content_schema(Some(Ref::from_schema_name("LogLine")))
}

fn one_of(values: impl Iterator<Item = &'static str>) -> ObjectBuilder {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.dedup();
    of_type(Type::String.into()).enum_values(Some(values))
}

fn map(names: ObjectBuilder, values: ObjectBuilder) -> ObjectBuilder {
    of_type(Type::Object.into())
        .property_names(Some(names))
        .additional_properties(Some(AdditionalProperties::RefOr(Schema::from(values).into())))
}

fn variable_name() -> ObjectBuilder {
    text(&format!("^(?!(?:{})$)[A-Za-z_][A-Za-z0-9_]{{0,127}}$", RESERVED_VARIABLES.join("|")))
}

fn params(value: SchemaType) -> ObjectBuilder {
    map(variable_name(), of_type(value).pattern(Some(PRINTABLE)).max_length(Some(MAX_PARAM_LEN)))
}
