//! `sbxctl cluster check`: whether all replicas hold the same, byte for byte.

use crate::args::Format;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Table};
use proto::wire;
use serde::Serialize;

/// One replica, as `-o json` shows it.
#[derive(Serialize)]
struct Row {
    id: u64,
    /// Of the entry after which it was summed; `null` where it was not, as the next.
    index: Option<u64>,
    sum: Option<String>,
    /// Why it was not.
    failure: Option<String>,
}

impl From<&wire::CheckedReplica> for Row {
    fn from(replica: &wire::CheckedReplica) -> Self {
        let summed = replica.failure.is_empty();
        Self {
            id: replica.id,
            index: summed.then_some(replica.index),
            sum: summed.then(|| replica.sum.iter().map(|byte| format!("{byte:02x}")).collect()),
            failure: (!summed).then(|| replica.failure.clone()),
        }
    }
}

pub(super) async fn run(invocation: &mut Invocation) -> Result<(), Failure> {
    let replicas = invocation.client()?.check_replicas().await?;
    let rows: Vec<Row> = replicas.iter().map(Row::from).collect();
    let text = match invocation.format() {
        Format::Table | Format::Wide => table(&rows),
        format @ (Format::Json | Format::Yaml) => output::document(&rows, format)?,
    };
    invocation.write(text.as_bytes())?;
    match verdict(&rows) {
        Some(why) => Err(Failure::NeverComes(why)),
        None => Ok(()),
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(vec!["ID", "INDEX", "SUM", "FAILURE"]);
    for row in rows {
        let or_none = |text: Option<String>| text.unwrap_or("-".to_owned());
        table.push(vec![
            row.id.to_string(),
            or_none(row.index.map(|index| index.to_string())),
            or_none(row.sum.clone()),
            or_none(row.failure.clone()),
        ]);
    }
    table.render()
}

/// What is wrong; `None`: nothing is.
fn verdict(rows: &[Row]) -> Option<String> {
    let names = |rows: Vec<&Row>| {
        let names: Vec<String> = rows.iter().map(|row| format!("replica/{}", row.id)).collect();
        names.join(", ")
    };
    let same = |a: &Row, b: &Row| (a.index, &a.sum) == (b.index, &b.sum);
    let summed: Vec<&Row> = rows.iter().filter(|row| row.sum.is_some()).collect();
    let like = |row: &Row| summed.iter().filter(|other| same(row, other)).count();
    // What most hold is what the cluster holds.
    let most = summed.iter().max_by_key(|row| like(row))?;
    let differ: Vec<&Row> = summed.iter().copied().filter(|row| !same(row, most)).collect();
    if !differ.is_empty() && like(most) * 2 <= rows.len() {
        return Some("the replicas hold different states, none of them as most of them do".to_owned());
    }
    if !differ.is_empty() {
        return Some(format!(
            "the state of {} differs from that of the others: put a new replica in its place",
            names(differ)
        ));
    }
    let silent: Vec<&Row> = rows.iter().filter(|row| row.sum.is_none()).collect();
    (!silent.is_empty()).then(|| format!("nothing is known of {}", names(silent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sums: &[Option<(u64, &str)>], expected: Option<&str>) {
        let rows: Vec<Row> = (1..)
            .zip(sums)
            .map(|(id, sum)| Row {
                id,
                index: sum.map(|(index, _)| index),
                sum: sum.map(|(_, sum)| sum.to_owned()),
                failure: sum.is_none().then(|| "it is away".to_owned()),
            })
            .collect();
        let told = verdict(&rows);
        match (&told, expected) {
            (None, None) => {}
            (Some(told), Some(expected)) if told.contains(expected) => {}
            _ => panic!("{told:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn replica_that_differs_from_most_is_named_and_so_is_a_silent_one() {
        check(&[Some((9, "aa")), Some((9, "aa")), Some((9, "aa"))], None);
        check(
            &[Some((9, "aa")), Some((9, "bb")), Some((9, "aa"))],
            Some("replica/2 differs"),
        );
        check(
            &[Some((9, "bb")), Some((9, "aa")), Some((9, "aa"))],
            Some("replica/1 differs"),
        );
        check(
            &[Some((9, "aa")), None, Some((9, "aa"))],
            Some("nothing is known of replica/2"),
        );
        check(
            &[Some((9, "aa")), Some((9, "bb"))],
            Some("none of them as most of them do"),
        );
    }
}
