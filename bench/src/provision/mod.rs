//! `sbxbench provision`: how fast sandboxes come and go, and beside it bare runtimes and container engines, with the same
//! program of the same image, in the same run.
//!
//! | file | owns |
//! |---|---|
//! | `course` | the cases, and how each is measured |
//! | `contender` | what all that is measured has in common |
//! | `sandboxes` | sandboxes of a cluster |
//! | `bare` | `runc` and `crun` without network and without anyone who watches |
//! | `engine` | `docker run` and `podman run` |
//! | `image` | what all of them run |
//! | `idle` | what the agent and its monitors take while nothing happens |
//! | `report` | the figures as JSON, as a table and as a chart |

mod bare;
mod contender;
mod course;
mod engine;
mod idle;
mod image;
mod report;
mod sandboxes;

use crate::error::BenchError;
use crate::local::{Local, programs};
use crate::output::{say, tell, write_file};
use bare::Bare;
use clap::{Args, ValueEnum};
use cli::context;
use course::{Case, Course};
use engine::Engine;
use report::Report;
use sandboxes::Sandboxes;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More at once than any budget speaks of only measures how the machine thrashes.
const MAX_AT_ONCE: u32 = 1_000;
/// Processors that the node of a run says it has, so that a thousand sandboxes of one each are admitted.
const PROCESSORS: u32 = 2_000;

#[derive(Debug, Args)]
pub(crate) struct ProvisionArgs {
    /// A replica of a running cluster; by default a cluster of this machine is made for the run
    #[arg(long, value_name = "URL")]
    server: Vec<String>,
    /// Where sbxctl, sbxorch and sbxlet are; by default where sbxbench is
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Replicas of the cluster that is made
    #[arg(long, default_value_t = 3)]
    replicas: u8,
    /// What to measure; what is not installed is left out, and told
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "sandboxd,runc,crun,docker,podman"
    )]
    only: Vec<What>,
    /// Starts of one case, rounded up to whole rounds
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    samples: u32,
    /// Starts at once, a case each
    #[arg(long, value_delimiter = ',', default_value = "1,4,16", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_AT_ONCE)))]
    concurrency: Vec<u32>,
    /// Sandboxes at once in a single round, a case each; of sandboxd alone
    #[arg(long, value_delimiter = ',', default_value = "50,200", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_AT_ONCE)))]
    burst: Vec<u32>,
    /// Starts after idleness
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    cold_samples: u32,
    /// Idleness before each of them
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    idle: Duration,
    /// How long the agent is watched while its sandboxes are idle
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    watch_idle: Duration,
    /// Write all figures there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw them there
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Sandboxd,
    Runc,
    Crun,
    Docker,
    Podman,
}

/// Measures, prints, writes.
///
/// # Errors
/// [`BenchError`], where sandboxd can't be measured. Of the others it is told on stderr and in the figures why not.
pub(crate) async fn run(args: ProvisionArgs) -> Result<(), BenchError> {
    let cases = cases(&args);
    let mut report = Report::default();
    if args.only.contains(&What::Sandboxd) {
        sandboxd(&args, &cases, &mut report).await?;
    }
    let folder = tempfile::tempdir().map_err(|source| BenchError::System {
        act: "make a folder",
        source,
    })?;
    for what in &args.only {
        let measured = match what {
            What::Sandboxd => continue,
            What::Runc | What::Crun => bare(*what, folder.path(), &cases, &mut report).await,
            What::Docker | What::Podman => engine(*what, folder.path(), &cases, &mut report).await,
        };
        if let Err(error) = measured {
            let name = what.program();
            tell(format_args!("{name} is left out: {error}"));
            // What follows the first line is of programs that say a lot.
            let why = error.to_string().lines().next().unwrap_or_default().to_owned();
            report.left_out.insert(name.to_owned(), why);
        }
    }
    say(&report.table())?;
    let files = [(&args.json, report.json()), (&args.svg, report.svg())];
    for (path, text) in files {
        if let Some(path) = path {
            write_file(path, &text)?;
        }
    }
    Ok(())
}

fn cases(args: &ProvisionArgs) -> Vec<Case> {
    let cold = Case {
        at_once: 1,
        rounds: args.cold_samples,
        idle: args.idle,
        is_burst: false,
    };
    let warm = args.concurrency.iter().map(|at_once| Case {
        at_once: *at_once,
        rounds: args.samples.div_ceil(*at_once),
        idle: Duration::ZERO,
        is_burst: false,
    });
    let bursts = args.burst.iter().map(|at_once| Case {
        at_once: *at_once,
        rounds: 1,
        idle: Duration::ZERO,
        is_burst: true,
    });
    let all = std::iter::once(cold).chain(warm).chain(bursts);
    all.filter(|case| case.rounds > 0).collect()
}

async fn sandboxd(args: &ProvisionArgs, cases: &[Case], report: &mut Report) -> Result<(), BenchError> {
    let (local, context) = if args.server.is_empty() {
        let local = Local::with_agent(&programs(args.programs.as_deref())?, args.replicas, PROCESSORS)?;
        image::import(&local)?;
        let context = local.context()?;
        (Some(local), context)
    } else {
        // Plain text, or with a context of its own.
        let context = context::File {
            servers: args.server.clone(),
            ..Default::default()
        };
        (None, context)
    };
    let sandboxes = Sandboxes::open(&context).await?;
    let course = Course::new("sandboxd", &sandboxes);
    for case in cases {
        tell(format_args!("sandboxd, {case}"));
        report.cases.push(course.measure(case).await?);
    }
    if let Some(local) = &local {
        let most = args.burst.iter().max().copied().unwrap_or(0);
        tell(format_args!("sandboxd, {most} idle"));
        report.idle = Some(idle::measure(local, &course, most, args.watch_idle).await?);
        idle::nothing_left(local)?;
    }
    Ok(())
}

async fn bare(what: What, folder: &Path, cases: &[Case], report: &mut Report) -> Result<(), BenchError> {
    let bare = Bare::prepare(what.program(), folder)?;
    compare(&Course::new(what.program(), &bare), cases, report).await
}

async fn engine(what: What, folder: &Path, cases: &[Case], report: &mut Report) -> Result<(), BenchError> {
    let engine = Engine::prepare(what.program(), folder)?;
    compare(&Course::new(what.program(), &engine), cases, report).await
}

async fn compare<C: contender::Contender>(
    course: &Course<'_, C>,
    cases: &[Case],
    report: &mut Report,
) -> Result<(), BenchError> {
    for case in cases.iter().filter(|case| !case.is_burst) {
        tell(format_args!("{}, {case}", course.name()));
        report.cases.push(course.measure(case).await?);
    }
    Ok(())
}

impl What {
    fn program(self) -> &'static str {
        match self {
            Self::Sandboxd => "sandboxd",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}
