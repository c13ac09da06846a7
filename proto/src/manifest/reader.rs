//! Walks a tree of values: knows where it is, names what is missing, of the wrong type or unknown.
//!
//! A reader never stops at a fault: it notes it and gives `None`, so that one pass finds all of them.

use super::fault::Faults;
use serde_yaml_ng::{Mapping, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

/// A place in a document.
#[derive(Debug, Clone)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn root() -> Self {
        Self(String::new())
    }

    pub(super) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    pub(super) fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the faults of one document are collected.
pub(super) struct Sink<'f> {
    document: usize,
    faults: RefCell<&'f mut Faults>,
}

impl<'f> Sink<'f> {
    pub(super) fn new(document: usize, faults: &'f mut Faults) -> Self {
        Self {
            document,
            faults: RefCell::new(faults),
        }
    }

    pub(super) fn fault(&self, path: &Path, message: impl Into<String>) {
        self.faults.borrow_mut().push(self.document, path, message.into());
    }

    pub(super) fn count(&self) -> usize {
        self.faults.borrow().0.len()
    }
}

/// One value and its place.
#[derive(Clone)]
pub(super) struct Reader<'v, 'f> {
    pub(super) path: Path,
    value: &'v Value,
    sink: &'v Sink<'f>,
}

impl<'v, 'f> Reader<'v, 'f> {
    pub(super) fn new(path: Path, value: &'v Value, sink: &'v Sink<'f>) -> Self {
        Self { path, value, sink }
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        self.sink.fault(&self.path, message);
    }

    fn expected(&self, what: &str) {
        self.fault(format!("must be {what}, not {}", describe(self.value)));
    }

    pub(super) fn text(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(n) => {
                self.fault(format!("must be a string: write \"{n}\""));
                None
            }
            Value::Bool(b) => {
                self.fault(format!("must be a string: write \"{b}\""));
                None
            }
            Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                self.expected("a string");
                None
            }
        }
    }

    /// A quantity may stand without quotes: `cpu: 2`.
    pub(super) fn quantity(&self) -> Option<String> {
        if let Value::Number(n) = self.value {
            Some(n.to_string())
        } else {
            self.text()
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.expected("true or false");
        }
        value
    }

    /// A whole number between `min` and `max`.
    pub(super) fn integer(&self, min: i64, max: i64) -> Option<i64> {
        let Some(n) = self.value.as_i64() else {
            self.expected("a whole number");
            return None;
        };
        if (min..=max).contains(&n) {
            return Some(n);
        }
        self.fault(match (min, max) {
            (min, i64::MAX) => format!("must be at least {min}, not {n}"),
            (min, max) => format!("must be between {min} and {max}, not {n}"),
        });
        None
    }

    /// Parses a string with `parse`, noting what it says.
    pub(super) fn parsed<T, E: fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text()?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.fault(why.to_string());
                None
            }
        }
    }

    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let Some(items) = self.value.as_sequence() else {
            self.expected("a list");
            return None;
        };
        let at = |(i, value)| Self {
            path: self.path.index(i),
            value,
            sink: self.sink,
        };
        Some(items.iter().enumerate().map(at).collect())
    }

    /// The items that `read` accepts; the others have noted their faults.
    pub(super) fn list<T>(&self, read: impl FnMut(&Self) -> Option<T>) -> Option<Vec<T>> {
        let items = self.items()?;
        let count = items.len();
        let values: Vec<T> = items.iter().filter_map(read).collect();
        (values.len() == count).then_some(values)
    }

    /// String keys and their values, in order.
    pub(super) fn entries(&self) -> Option<Vec<(String, Self)>> {
        let mapping = self.mapping()?;
        let mut entries = Vec::with_capacity(mapping.len());
        for (key, value) in mapping {
            let Some(key) = key.as_str() else {
                self.fault(format!("keys must be strings, not {}", describe(key)));
                continue;
            };
            let reader = Self {
                path: self.path.field(key),
                value,
                sink: self.sink,
            };
            entries.push((key.to_owned(), reader));
        }
        Some(entries)
    }

    fn mapping(&self) -> Option<&'v Mapping> {
        let mapping = self.value.as_mapping();
        if mapping.is_none() {
            self.expected("a mapping of fields");
        }
        mapping
    }

    /// The fields of a mapping; what is never asked for is noted as unknown by [`Fields::finish`].
    pub(super) fn fields(&self) -> Option<Fields<'v, 'f>> {
        let mapping = self.mapping()?;
        Some(Fields {
            reader: self.clone(),
            mapping,
            known: RefCell::new(BTreeSet::new()),
        })
    }
}

pub(super) struct Fields<'v, 'f> {
    reader: Reader<'v, 'f>,
    mapping: &'v Mapping,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'v, 'f> Fields<'v, 'f> {
    /// `None` where the field is absent or null.
    pub(super) fn optional(&self, name: &'static str) -> Option<Reader<'v, 'f>> {
        self.known.borrow_mut().insert(name);
        let value = self.mapping.get(name).filter(|v| !v.is_null())?;
        Some(Reader {
            path: self.reader.path.field(name),
            value,
            sink: self.reader.sink,
        })
    }

    pub(super) fn required(&self, name: &'static str) -> Option<Reader<'v, 'f>> {
        let reader = self.optional(name);
        if reader.is_none() {
            self.reader.sink.fault(&self.reader.path.field(name), "required");
        }
        reader
    }

    /// An absent field's default, or what `read` makes of it.
    pub(super) fn or<T>(
        &self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Reader<'v, 'f>) -> Option<T>,
    ) -> Option<T> {
        match self.optional(name) {
            None => Some(default),
            Some(reader) => read(&reader),
        }
    }

    /// Notes every field that was never asked for.
    pub(super) fn finish(self) {
        let known = self.known.into_inner();
        for key in self.mapping.keys() {
            let Some(key) = key.as_str() else {
                self.reader
                    .fault(format!("keys must be strings, not {}", describe(key)));
                continue;
            };
            if !known.contains(key) {
                let hint = closest(key, &known)
                    .map(|k| format!(", did you mean {k}?"))
                    .unwrap_or_default();
                self.reader
                    .sink
                    .fault(&self.reader.path.field(key), format!("unknown field{hint}"));
            }
        }
    }
}

/// The known word nearest to `word`, where it is near enough to be a slip: within a third of its length.
pub(super) fn closest<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k &'static str>,
) -> Option<&'static str> {
    let distance = |k: &str| strsim::damerau_levenshtein(word, k);
    let best = known.into_iter().copied().min_by_key(|k| (distance(k), *k))?;
    (distance(best) <= (word.len().max(best.len()) / 3).max(1)).then_some(best)
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => format!("`{b}`"),
        Value::Number(n) => format!("`{n}`"),
        Value::String(text) => format!("`{text}`"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Tagged(tagged) => format!("the tagged value {}", tagged.tag),
    }
}
