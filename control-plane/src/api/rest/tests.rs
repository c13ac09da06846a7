use super::body;
use super::health::DESCRIPTION;
use proto::document::Document;
use proto::object::Kind;
use proto::spec::Labels;
use proto::status::Phase;
use proto::wire;
use serde_json::{Value, json};

fn description() -> Value {
    serde_json::from_str(DESCRIPTION).expect("the description is JSON")
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(target) if key == "$ref" => found.push(target.to_owned()),
                    Some(_) | None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn description_refers_to_nothing_that_is_missing() {
    let description = description();
    let mut targets = Vec::new();
    references(&description, &mut targets);
    assert!(!targets.is_empty());
    for target in targets {
        let pointer = target.strip_prefix('#').expect("it is of this document");
        assert!(description.pointer(pointer).is_some(), "{target}");
    }
}

/// The fields of a document are those that the description has under `schema`, with nothing left out that is required.
#[track_caller]
fn check_described(schema: &str, document: &Value) {
    let description = description();
    let schema = &description["components"]["schemas"][schema];
    let fields = document.as_object().expect("a document is an object");
    for name in fields.keys() {
        assert!(
            schema["properties"].get(name).is_some(),
            "`{name}` is not described"
        );
    }
    for name in schema["required"].as_array().expect("a list") {
        assert!(
            fields.contains_key(name.as_str().expect("a name")),
            "{name} is missing"
        );
    }
}

fn document_of(object: wire::object::Object) -> Value {
    let document = Document::try_from(wire::Object { object: Some(object) }).expect("the object is whole");
    serde_json::to_value(document).expect("it has a JSON form")
}

#[test]
fn documents_have_the_fields_that_are_described() {
    let sandbox = crate::session::sample::sandbox("s", 1, Phase::Running, Some("n"));
    let sandbox = document_of(wire::object::Object::Sandbox((&sandbox).into()));
    check_described("Sandbox", &sandbox);
    check_described("SandboxStatus", &sandbox["status"]);
    check_described("SandboxSpec", &sandbox["spec"]);
    check_described("Container", &sandbox["spec"]["containers"][0]);
    assert_eq!(sandbox["status"]["external"], "(none)");
    let node = wire::Node {
        id: "n".to_owned(),
        spec: Some(wire::NodeSpec::default()),
        state: wire::NodeState::NotReady.into(),
        labels: Labels::from([("a".to_owned(), "manifest".to_owned())]),
        reported_labels: Labels::from([("a".to_owned(), "agent".to_owned())]),
        ..Default::default()
    };
    let node = document_of(wire::object::Object::Node(node));
    check_described("Node", &node);
    assert_eq!(node["state"], "NotReady");
    assert_eq!(node["metadata"]["labels"]["a"], "manifest");
    let external = wire::External {
        id: "e".to_owned(),
        node_id: "n".to_owned(),
        external: "x.test".to_owned(),
        ..Default::default()
    };
    check_described("External", &document_of(wire::object::Object::External(external)));
    let cluster = proto::document::ClusterDocument::from(wire::ClusterResponse::default());
    check_described(
        "Cluster",
        &serde_json::to_value(cluster).expect("it has a JSON form"),
    );
}

#[track_caller]
fn check_refused(kind: Kind, body: &Value, part: &str) {
    let fault = body::manifest(kind, body.to_string().as_bytes()).expect_err("it is malformed");
    assert!(
        fault.to_string().contains(part),
        "`{fault}` does not say `{part}`"
    );
}

#[test]
fn body_is_judged_as_a_manifest_is() {
    let spec = json!({ "node_id": "n", "external": "x.test" });
    let good = json!({ "id": "e", "metadata": { "labels": { "a": "b" } }, "spec": spec });
    let manifest = body::manifest(Kind::External, good.to_string().as_bytes()).expect("it is good");
    assert_eq!((manifest.id.as_str(), manifest.labels["a"].as_str()), ("e", "b"));
    check_refused(Kind::External, &json!({ "id": "e" }), "spec");
    check_refused(
        Kind::External,
        &json!({ "id": "e", "spec": { "node": "n" } }),
        "spec.node",
    );
    check_refused(
        Kind::Sandbox,
        &json!({ "kind": "Node", "id": "e", "spec": {} }),
        "kind",
    );
    check_refused(Kind::Sandbox, &json!([]), "body");
}

#[test]
fn patch_edits_labels_and_null_removes() {
    let body = json!({ "labels": { "a": "2", "b": null }, "metadata": { "labels": { "c": "3" } }, "ttl_seconds": 5 });
    let patch = body::Patch::<body::SandboxPatch>::parse(body.to_string().as_bytes()).expect("it is good");
    let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut labels = Labels::from([("a", "1"), ("b", "1")].map(label));
    patch.apply_labels(&mut labels);
    assert_eq!(labels, Labels::from([("a", "2"), ("c", "3")].map(label)));
    assert_eq!(patch.ttl_seconds, Some(5));
    let unknown = json!({ "spec": { "egress": true } }).to_string();
    body::Patch::<body::SandboxPatch>::parse(unknown.as_bytes()).expect_err("egress is immutable");
}
