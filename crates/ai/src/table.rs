//! Tables of a dialect's fields: what is done with each. They are data (`tables/*.toml`), so a provider's new field takes no release.
//!
//! A table is TOML, and each of its tables is a type: an object with these fields. `Request` is the body. A field says
//! - `refuse WHY`: refused unless its value is null or empty;
//! - `strip` or `force VALUE`, in `Request` only: taken out, or set;
//! - else alternatives, with ` | ` between them and `!` before them where the field has to be there: `string`, `number`, `bool`, `true`,
//!   `false`, `null`, `any` (anything: schemas, arguments), `link` (a URL: one that is no `data:` has the provider fetch), a `'text'`, a
//!   type; `[]` behind one of them is a list of it, `{}` an object whose values are it. `'text*'` begins so, and `'text'=option` has a price
//!   factor.
//!
//! `@refuse` makes a type one that is refused, `@one_of` a name for a list of types, `@media` one whose size its bytes do not bound
//! (`image`: some tokens each; `context`: as many as the model reads), and `@rounds` one with which the model answers more than once.
//!
//! An object is taken if it fits an alternative. It is refused if it could be of a refused type, because the provider might read it as that.

mod rules;
mod walk;

use std::sync::Arc;

use crate::json::Document;
use rules::{Rule, Rules, Type};
pub use walk::{Findings, Refusal};

/// Table of one kind of request.
#[derive(Debug, Clone)]
pub struct Table(Arc<Rules>);

/// Table that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTable(String);

/// Answer of a table about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is taken.
    Yes,
    /// It, or what it stands in, is refused, taken out or set.
    Refused,
    /// It stands in something that may be anything.
    Free,
    /// No row names it.
    No,
}

impl Table {
    /// Parses a table. With `snake_case`, each key of a request may be written in camel or in snake case.
    ///
    /// # Errors
    /// The text does not follow the format.
    pub fn parse(text: &str, snake_case: bool) -> Result<Self, InvalidTable> {
        Rules::parse(text, snake_case).map(|rules| Self(Arc::new(rules))).map_err(InvalidTable)
    }

    /// Walks through a whole request.
    ///
    /// # Errors
    /// Something in it is refused, of an unknown kind, or not what the field takes.
    pub fn walk(&self, request: &Document<'_>) -> Result<Findings, Refusal> {
        walk::walk(&self.0, request)
    }

    /// Tells if some row names the field at the end of this path of fields, each of which may be a list, an object of values, or one value.
    #[must_use]
    pub fn knows(&self, path: &[&str]) -> Known {
        let mut types = vec!["Request"];
        for (index, field) in path.iter().enumerate() {
            let (mut next, mut is_known) = (Vec::new(), false);
            for name in types {
                let Some(Type::Object { fields, .. }) = self.0.get(name) else { return Known::Refused };
                match fields.get(*field) {
                    None => {}
                    Some(Rule::Take(taken)) => {
                        is_known = true;
                        if taken.alternatives.is_free() && index + 1 < path.len() {
                            return Known::Free;
                        }
                        next.extend(taken.alternatives.all_types());
                    }
                    Some(_) => return Known::Refused,
                }
            }
            if !is_known {
                return Known::No;
            }
            types = next;
        }
        Known::Yes
    }
}
