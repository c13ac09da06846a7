//! The default profile against the facts of Docker's: what it allows, to whom, and under which conditions. `docker.json`
//! has them as `default.json` of `github.com/moby/profiles/seccomp` v0.3.0 states them.

use super::default_profile;
use oci_spec::runtime::{Capabilities, Capability};
use proto::policy::DEFAULT_CAPABILITIES;
use serde_json::Value;
use std::collections::BTreeSet;
use std::str::FromStr;

/// One call: its name, what becomes of it, the error it gets, and the conditions on its arguments.
type Rule = (String, String, u64, BTreeSet<(u64, u64, u64, String)>);

fn rules(of: &Value) -> BTreeSet<Rule> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let conditions = list(&of["args"]);
    let conditions = conditions.iter().map(|a| {
        (
            number(&a["index"]),
            number(&a["value"]),
            number(&a["valueTwo"]),
            text(&a["op"]),
        )
    });
    let conditions: BTreeSet<_> = conditions.collect();
    let names = list(&of["names"]);
    let rule = |name| {
        (
            text(name),
            text(&of["action"]),
            number(&of["errnoRet"]),
            conditions.clone(),
        )
    };
    names.iter().map(rule).collect()
}

/// Whether Docker would apply the rule to a container that holds `held`. Every kernel in use is newer than the least
/// that a rule names.
fn applies(rule: &Value, held: &Capabilities) -> bool {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let holds = |name: &String| {
        let name = name.trim_start_matches("CAP_");
        Capability::from_str(name).is_ok_and(|c| held.contains(&c))
    };
    let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
    let arches = texts(&includes["arches"]);
    (arches.is_empty() || arches.iter().any(|a| a == architecture))
        && texts(&includes["caps"]).iter().all(holds)
        && !texts(&excludes["arches"]).iter().any(|a| a == architecture)
        && !texts(&excludes["caps"]).iter().any(holds)
}

#[track_caller]
fn check(held: &Capabilities) {
    let docker: Vec<Value> = serde_json::from_str(include_str!("docker.json")).expect("it is JSON");
    let docker = docker.iter().filter(|rule| applies(rule, held));
    let docker: BTreeSet<Rule> = docker.flat_map(rules).collect();
    let own = default_profile(held).expect("a profile");
    let own = serde_json::to_value(&own).expect("it is JSON");
    assert_eq!(
        (&own["defaultAction"], &own["defaultErrnoRet"]),
        (&"SCMP_ACT_ERRNO".into(), &1.into())
    );
    let calls = own["syscalls"].as_array().expect("calls");
    let own: BTreeSet<Rule> = calls.iter().flat_map(rules).collect();
    let missing: Vec<_> = docker.difference(&own).collect();
    let extra: Vec<_> = own.difference(&docker).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{held:?}: missing {missing:#?}, extra {extra:#?}"
    );
}

#[test]
fn default_profile_is_dockers_for_every_capability() {
    let named = |name: &&str| Capability::from_str(name).expect("a capability");
    let default: Capabilities = DEFAULT_CAPABILITIES.iter().map(named).collect();
    check(&default);
    check(&Capabilities::new());
    let all = super::super::bundle::every_capability();
    check(&all);
    for one in &all {
        check(&[*one].into());
    }
}
