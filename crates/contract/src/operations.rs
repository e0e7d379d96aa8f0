//! Finds the operation that a request is for: method and path against the document's templates.

use http::Method;
use serde_json::Value;

use crate::{BadDocument, object};

/// Every operation with what is known of it.
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
    /// To be there as it is.
    Literal(String),
    /// Anything.
    Any,
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a, T> {
    /// An operation.
    Operation(&'a T),
    /// A path that has other methods.
    OtherMethod,
    /// No path of the document.
    Nothing,
}

impl<T> Operations<T> {
    /// Reads `paths`; `of` makes of an operation and its name what is to be known of it.
    pub(crate) fn read(
        document: &Value,
        mut of: impl FnMut(&str, &Value) -> Result<T, BadDocument>,
    ) -> Result<Self, BadDocument> {
        let mut paths = Vec::new();
        for (template, item) in object(document, "paths", "the document")? {
            let operations = item.as_object().ok_or_else(|| BadDocument::Missing(template.clone()))?;
            let mut methods = Vec::new();
            for (name, operation) in operations {
                let name = name.to_ascii_uppercase();
                // `parameters`, `summary` and the like stand beside the operations.
                let Ok(method) = name.parse::<Method>() else { continue };
                if operation.get("responses").is_some() {
                    methods.push((method, of(&format!("{name} {template}"), operation)?));
                }
            }
            paths.push(Path { segments: segments(template).map(Segment::new).collect(), methods });
        }
        Ok(Self { paths })
    }

    /// What `method` on `path` is for. `HEAD` is for what `GET` is for.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Found<'_, T> {
        // The same routes, documented once.
        let path = match path.strip_prefix("/v1/") {
            Some(rest) => format!("/api/v1/{rest}"),
            None => path.to_owned(),
        };
        let wanted: Vec<&str> = segments(&path).collect();
        let fitting = self.paths.iter().filter(|path| path.fits(&wanted));
        // `/users/me` is not a user whose id is `me`.
        let Some(path) = fitting.min_by_key(|path| path.variables()) else { return Found::Nothing };
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let found = path.methods.iter().find(|(own, _)| own == method);
        found.map_or(Found::OtherMethod, |(_, operation)| Found::Operation(operation))
    }
}

impl<T> Path<T> {
    fn fits(&self, wanted: &[&str]) -> bool {
        self.segments.len() == wanted.len()
            && self.segments.iter().zip(wanted).all(|(segment, wanted)| match segment {
                Segment::Literal(text) => text == wanted,
                Segment::Any => !wanted.is_empty(),
            })
    }

    fn variables(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Any)).count()
    }
}

impl Segment {
    fn new(text: &str) -> Self {
        if text.starts_with('{') && text.ends_with('}') { Self::Any } else { Self::Literal(text.to_owned()) }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('/').split('/')
}
