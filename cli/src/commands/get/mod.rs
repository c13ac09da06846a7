//! `sbxctl get`: lists, single objects, the cluster; once or as they change.

mod watch;

use super::Tally;
use super::target::{GetKind, Target};
use crate::args::{Format, GetArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Items, Table};
use proto::document::{ClusterDocument, Document};
use proto::object::Kind;
use proto::wire;

/// # Errors
/// [`Failure`]
pub async fn run(args: &GetArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    let (kind, ids) = match &args.kind {
        GetKind::Cluster => return cluster(args, invocation).await,
        GetKind::Objects(kind) => (*kind, args.ids.clone()),
        GetKind::One(target) if args.ids.is_empty() => (target.kind, vec![target.id.clone()]),
        GetKind::One(_) => return Err(Failure::Usage("write KIND ID... or one KIND/ID".to_owned())),
    };
    if args.phase.is_some() && kind != Kind::Sandbox {
        return Err(Failure::Usage("--phase is for sandboxes".to_owned()));
    }
    if !ids.is_empty() && (!args.labels.is_empty() || args.phase.is_some()) {
        return Err(Failure::Usage(
            "name ids, or select with -l and --phase".to_owned(),
        ));
    }
    let client = invocation.client()?;
    if args.watch {
        return watch::run(&client, kind, &ids, args, invocation).await;
    }
    if ids.is_empty() {
        list(&client, kind, args, invocation).await
    } else {
        by_id(&client, kind, &ids, args.stale, invocation).await
    }
}

async fn list(
    client: &Client,
    kind: Kind,
    args: &GetArgs,
    invocation: &mut Invocation,
) -> Result<(), Failure> {
    let request = wire::ListRequest {
        kind: wire::Kind::from(kind).into(),
        labels: args.labels.iter().cloned().collect(),
        phase: args
            .phase
            .map_or(wire::Phase::Unspecified, wire::Phase::from)
            .into(),
        stale: args.stale,
        ..Default::default()
    };
    let items = client.list(&request).await?.items;
    if items.is_empty() && matches!(invocation.format(), Format::Table | Format::Wide) {
        invocation.note(format_args!("no {} found", plural(kind)));
        return Ok(());
    }
    show(kind, &items, true, invocation)
}

async fn by_id(
    client: &Client,
    kind: Kind,
    ids: &[String],
    stale: bool,
    invocation: &mut Invocation,
) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut items = Vec::new();
    for id in ids {
        let target = Target::new(kind, id).map_err(Failure::Usage)?;
        let got = client.get(kind, &target.id, stale).await.map_err(Failure::from);
        items.extend(tally.note(got, invocation)?);
    }
    if !items.is_empty() {
        show(kind, &items, ids.len() > 1, invocation)?;
    }
    tally.finish()
}

/// `as_list`: as `{"items": [...]}` even where there is one.
fn show(
    kind: Kind,
    objects: &[wire::Object],
    as_list: bool,
    invocation: &mut Invocation,
) -> Result<(), Failure> {
    let text = match invocation.format() {
        format @ (Format::Table | Format::Wide) => {
            let wide = format == Format::Wide;
            let now = Invocation::now();
            let mut table = Table::new(output::header(kind, wide));
            for object in objects {
                table.push(output::row(object, now, wide)?);
            }
            table.render()
        }
        format @ (Format::Json | Format::Yaml) => {
            let items = objects
                .iter()
                .cloned()
                .map(Document::try_from)
                .collect::<Result<Vec<_>, _>>()?;
            match items.as_slice() {
                [one] if !as_list => output::document(one, format)?,
                _ => output::document(&Items { items }, format)?,
            }
        }
    };
    invocation.write(text.as_bytes())
}

async fn cluster(args: &GetArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    if !args.ids.is_empty() || !args.labels.is_empty() || args.phase.is_some() || args.watch {
        return Err(Failure::Usage(
            "`get cluster` takes no ids, -l, --phase or --watch".to_owned(),
        ));
    }
    let view = ClusterDocument::from(invocation.client()?.cluster(args.stale).await?);
    let text = match invocation.format() {
        Format::Table => output::cluster_table(&view, false),
        Format::Wide => output::cluster_table(&view, true),
        format @ (Format::Json | Format::Yaml) => output::document(&view, format)?,
    };
    invocation.write(text.as_bytes())
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Sandbox => "sandboxes",
        Kind::Node => "nodes",
        Kind::External => "externals",
    }
}
