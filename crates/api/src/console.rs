//! Pages of the console: layout, security headers and form parsing. One file per subject.

pub(crate) mod device;
pub(crate) mod open;
pub(crate) mod sign_in;

use axum::extract::{FromRequest, FromRequestParts, RawForm, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::de::DeserializeOwned;

use crate::context::ApiContext;
use crate::error::{ApiError, route_not_found};
use crate::extract::parse_query;
use crate::middleware::credentials;

const STYLE: &str = r#"
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:32rem;margin:10vh auto;padding:0 1rem;color:#1d2330;background:#fff}
header{display:flex;align-items:center;gap:.5rem;font-weight:600;opacity:.8}
header::before{content:"";width:1rem;height:1rem;border:.2rem solid #0b57d0;border-radius:.25rem}
h1{font-size:1.4rem}
a{color:#0b57d0}
form{margin:1.5rem 0;display:flex;flex-wrap:wrap;gap:.75rem;align-items:end}
label{display:block;flex:1 1 14rem}
input{display:block;width:100%;box-sizing:border-box}
input,button{font:inherit;padding:.5rem .75rem;border:1px solid #8888;border-radius:.4rem}
button{cursor:pointer;color:#fff;background:#0b57d0;border-color:#0b57d0}
button.plain{color:inherit;background:none;border-color:#8888}
dt{opacity:.7}dd{margin:0 0 .5rem}
code{font-size:1.1rem;letter-spacing:.05em}
@media(prefers-color-scheme:dark){body{color:#e4e7ee;background:#14171d}a{color:#8ab4f8}header::before{border-color:#8ab4f8}}
"#;

/// Renders a page. The title is also its heading.
fn page(status: StatusCode, title: &str, content: &Markup) -> Response {
    render(status, title, content, None)
}

/// Renders a page that goes on to one of our own paths by itself.
fn page_before(next: &str, title: &str, content: &Markup) -> Response {
    render(StatusCode::OK, title, content, Some(next))
}

fn render(status: StatusCode, title: &str, content: &Markup, next: Option<&str>) -> Response {
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        return ApiError::internal(&error).into_response();
    }
    let nonce = BASE64.encode(random);
    let text = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(next) = next { meta http-equiv="refresh" content={"0;url=" (next)}; }
                title { (title) " - Rigbox" }
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body { header { "Rigbox" } main { h1 { (title) } (content) } }
        }
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    let mut response = (status, text.into_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    protect(&mut response);
    response
}

/// Adds the headers that every response to a browser has, redirects included: no caching, and no referrer to
/// other sites, because the URL may contain the token of a link.
fn protect(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn redirect(to: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    protect(&mut response);
    response
}

/// Error as a page.
pub(crate) struct PageError(ApiError);

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, retry_after) = (self.0.status(), self.0.retry_after());
        let (_, message) = self.0.into_code_and_message();
        let content = html! { p { (message) } p { a href="/sign-in" { "Sign in" } } };
        let mut response = page(status, "Something went wrong", &content);
        response.headers_mut().extend(retry_after);
        response
    }
}

/// Returns the response for a path without a route: a page for people, JSON for programs.
pub(crate) async fn not_found(State(context): State<ApiContext>, request: Request) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    if !credentials::is_console_host(&context.console, headers) || !prefers_html(headers) {
        return route_not_found(path).into_response();
    }
    let content = html! {
        p { "The address was not found. Check its spelling." }
        p { a href="/" { "Go to the start page" } }
    };
    page(StatusCode::NOT_FOUND, "Page not found", &content)
}

/// Returns whether `Accept` names HTML, with a higher weight than JSON. Programs that take anything get JSON.
fn prefers_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    let weight = |wanted: &str| {
        let weights = ranges.iter().filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|media_type| media_type.eq_ignore_ascii_case(wanted))?;
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            Some(weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        });
        weights.fold(0.0, f32::max)
    };
    weight("text/html") > weight("application/json")
}

/// Requires the console's own host, where its cookie is valid; reads under another of our names are
/// redirected there. Changes must come from one of the console's pages.
pub(crate) async fn require_console_host(
    State(context): State<ApiContext>,
    request: Request,
    next: Next,
) -> Response {
    let (method, headers) = (request.method(), request.headers());
    if !credentials::is_console_host(&context.console, headers) {
        if !method.is_safe() {
            return PageError(ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                "unknown_host",
                format!("This page is at {}.", context.console.origin()),
            ))
            .into_response();
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        return redirect(&format!("{}{path}", context.console.origin()));
    }
    if *method == Method::POST && !credentials::is_same_origin(&context.console, method, headers) {
        let message = "This form was not sent from a page of this console. Open the page again.";
        return PageError(ApiError::new(StatusCode::FORBIDDEN, "cross_site", message)).into_response();
    }
    next.run(request).await
}

/// Fields of a form.
pub(crate) struct FormParams<T>(T);

impl<T: DeserializeOwned> FromRequest<ApiContext> for FormParams<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, context: &ApiContext) -> Result<Self, PageError> {
        let RawForm(bytes) = RawForm::from_request(request, context).await.map_err(|_| incomplete())?;
        let uri = http::Uri::builder().path_and_query([b"/?", &*bytes].concat()).build();
        let uri = uri.map_err(|_| ApiError::bad_request("The form is malformed."))?;
        parse_query(&uri).map(Self).map_err(|_: ApiError| incomplete())
    }
}

/// Returns the error for parameters that none of our pages and links has.
fn incomplete() -> PageError {
    let message = "This link or form is incomplete. Open it again from where you got it, or sign in.";
    ApiError::bad_request(message).into()
}

/// Start page of the console
#[utoipa::path(get, path = "/", operation_id = "show_home", tag = "pages", responses(
    (status = 303, description = "To sign in, or to the console's own host"),
))]
pub(crate) async fn home() -> Response {
    redirect("/sign-in")
}

/// Query parameters of a page.
pub(crate) struct PageParams<T>(T);

impl<T: DeserializeOwned> FromRequestParts<ApiContext> for PageParams<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiContext) -> Result<Self, PageError> {
        parse_query(&parts.uri).map(Self).map_err(|_: ApiError| incomplete())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_prefer_html_and_programs_do_not() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("Text/HTML; q=0.9, application/json;q=0.5", true),
            ("application/json, text/html;q=0.5", false),
            ("application/json, text/html", false),
            ("text/html;q=0", false),
            ("*/*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(prefers_html(&headers), expected, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
