//! What has happened, as a table; and one object with all that is known of it.

use super::{Table, document, span};
use crate::args::Format;
use crate::failure::Failure;
use proto::document::Document;
use proto::event::Event;
use proto::units::Timestamp;
use serde::Serialize;

/// An event, and to what it has happened.
#[derive(Debug, Serialize)]
pub struct Happened {
    /// `KIND/ID`
    pub object: String,
    #[serde(flatten)]
    pub event: Event,
}

impl Happened {
    /// All that has happened to an object.
    pub fn to(document: Document) -> impl Iterator<Item = Self> {
        let (object, events) = match document {
            Document::Sandbox(sandbox) => (format!("sandbox/{}", sandbox.id), sandbox.events),
            Document::Node(node) => (format!("node/{}", node.id), node.events),
            Document::External(external) => (format!("external/{}", external.id), Vec::new()),
        };
        events.into_iter().map(move |event| Self {
            object: object.clone(),
            event,
        })
    }
}

/// In the order given.
#[must_use]
pub fn event_table(happened: &[Happened], now: Timestamp) -> String {
    let mut table = Table::new(vec!["LAST-SEEN", "OBJECT", "REASON", "COUNT", "MESSAGE"]);
    for Happened { object, event } in happened {
        let [ago, reason, count, message] = cells(event, now);
        table.push(vec![ago, object.clone(), reason, count, message]);
    }
    table.render()
}

fn cells(event: &Event, now: Timestamp) -> [String; 4] {
    let message = if event.message.is_empty() {
        "-".to_owned()
    } else {
        event.message.clone()
    };
    [
        span(now.since(event.last_at)),
        event.reason.clone(),
        event.count.to_string(),
        message,
    ]
}

/// Everything as YAML, then the events as a table.
///
/// # Errors
/// [`Failure::Render`]
pub fn description(object: &Document, now: Timestamp) -> Result<String, Failure> {
    let mut value = serde_json::to_value(object).map_err(|e| Failure::Render(e.to_string()))?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("events");
    }
    let events: &[Event] = match object {
        Document::Sandbox(sandbox) => &sandbox.events,
        Document::Node(node) => &node.events,
        Document::External(_) => &[],
    };
    let mut table = Table::new(vec!["LAST-SEEN", "REASON", "COUNT", "MESSAGE"]);
    for event in events {
        table.push(cells(event, now).into());
    }
    let told = if events.is_empty() {
        "nothing that is still known\n".to_owned()
    } else {
        table.render()
    };
    Ok(format!("{}\nevents:\n{told}", document(&value, Format::Yaml)?))
}
