//! Matches requests with the document's operations, by method and path template.

use http::Method;
use serde_json::Value;

use crate::error::{InvalidDocument, object};

/// Operations, each with a value.
#[derive(Debug)]
pub(crate) struct Operations<T> {
    paths: Vec<Path<T>>,
}

#[derive(Debug)]
struct Path<T> {
    segments: Vec<Segment>,
    methods: Vec<(Method, T)>,
}

#[derive(Debug)]
enum Segment {
    /// Literal text.
    Literal(String),
    /// Parameter.
    Parameter,
}

/// Result of a search.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match<'a, T> {
    /// The operation.
    Operation(&'a T),
    /// The path has other methods.
    OtherMethod,
    /// No path matches.
    None,
}

impl<T> Operations<T> {
    /// Reads `paths`; `read` returns the value of an operation, given its name.
    pub(crate) fn read(
        document: &Value,
        mut read: impl FnMut(&str, &Value) -> Result<T, InvalidDocument>,
    ) -> Result<Self, InvalidDocument> {
        let mut paths = Vec::new();
        for (template, item) in object(document, "paths", "the document")? {
            let operations = item.as_object().ok_or_else(|| InvalidDocument::Missing(template.clone()))?;
            let mut methods = Vec::new();
            for (name, operation) in operations {
                let name = name.to_ascii_uppercase();
                // Other keys are `parameters`, `summary` and the like.
                let Ok(method) = name.parse::<Method>() else { continue };
                if operation.get("responses").is_some() {
                    methods.push((method, read(&format!("{name} {template}"), operation)?));
                }
            }
            paths.push(Path { segments: segments(template).map(Segment::new).collect(), methods });
        }
        Ok(Self { paths })
    }

    /// Finds the operation of a request. `HEAD` has the one of `GET`.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Match<'_, T> {
        // Aliases of documented routes.
        let path = match path.strip_prefix("/v1/") {
            Some(rest) => format!("/api/v1/{rest}"),
            None => path.to_owned(),
        };
        let requested: Vec<&str> = segments(&path).collect();
        let matching = self.paths.iter().filter(|path| path.matches(&requested));
        // `/users/me` wins over `/users/{id}`.
        let Some(path) = matching.min_by_key(|path| path.parameters()) else { return Match::None };
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let found = path.methods.iter().find(|(own, _)| own == method);
        found.map_or(Match::OtherMethod, |(_, operation)| Match::Operation(operation))
    }
}

impl<T> Path<T> {
    fn matches(&self, requested: &[&str]) -> bool {
        self.segments.len() == requested.len()
            && self.segments.iter().zip(requested).all(|(segment, requested)| match segment {
                Segment::Literal(text) => text == requested,
                Segment::Parameter => !requested.is_empty(),
            })
    }

    fn parameters(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Parameter)).count()
    }
}

impl Segment {
    fn new(text: &str) -> Self {
        if text.starts_with('{') && text.ends_with('}') {
            Self::Parameter
        } else {
            Self::Literal(text.to_owned())
        }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('/').split('/')
}
