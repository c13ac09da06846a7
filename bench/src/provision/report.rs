//! The figures as JSON, as a table and as a chart.

use super::course::Measured;
use super::idle::Idle;
use crate::quantile::Summary;
use crate::svg::{self, Bar};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const OURS: &str = "sandboxd";
const OUR_COLOUR: &str = "#2b6cb0";
const OTHER_COLOUR: &str = "#a0aec0";

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) cases: Vec<Measured>,
    pub(super) idle: Option<Idle>,
    /// Contenders that could not be measured, and why.
    pub(super) left_out: BTreeMap<String, String>,
}

impl Report {
    pub(super) fn json(&self) -> String {
        // Nothing in it can fail to be written as JSON: strings and numbers.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{:<10} {:<16} {:>8} {:>8} {:>8} {:>7}   {:>8} {:>8} {:>7}   {:>8} {:>8}",
            "", "", "up p50", "p95", "min", "ratio", "gone p50", "p95", "ratio", "all up", "all gone"
        );
        for case in &self.cases {
            let ours = self
                .cases
                .iter()
                .find(|c| c.contender == OURS && c.case == case.case);
            let ratio = |pick: fn(&Measured) -> Option<Summary>| {
                let ours = ours.and_then(pick)?.p50;
                Some(format!("x{:.1}", pick(case)?.p50 / ours))
            };
            let _ = writeln!(
                text,
                "{:<10} {:<16} {:>8} {:>8} {:>8} {:>7}   {:>8} {:>8} {:>7}   {:>8} {:>8}",
                case.contender,
                case.case,
                ms(case.answered.map(|s| s.p50)),
                ms(case.answered.map(|s| s.p95)),
                ms(case.answered.map(|s| s.min)),
                ratio(|c| c.answered).unwrap_or_default(),
                ms(case.gone.map(|s| s.p50)),
                ms(case.gone.map(|s| s.p95)),
                ratio(|c| c.gone).unwrap_or_default(),
                ms(case.all_answered.map(|s| s.p50)),
                ms(case.all_gone.map(|s| s.p50)),
            );
        }
        text.push_str(
            "Milliseconds: from the request to the first HTTP 200, and from the request to nothing left.\n",
        );
        self.stages(&mut text);
        if let Some(idle) = &self.idle {
            let _ = writeln!(
                text,
                "\n{} idle sandboxes: agent {:.1} MiB, {:.2} % of a core; a monitor {:.2} MiB PSS, {:.2} MiB of its own",
                idle.sandboxes,
                idle.agent_rss_mib,
                idle.agent_cpu_percent,
                idle.monitor_pss_mib,
                idle.monitor_private_mib
            );
        }
        for (name, why) in &self.left_out {
            let _ = writeln!(text, "\n{name} is not among them: {why}");
        }
        text
    }

    /// Each stage of each of our cases, p50 and p95.
    fn stages(&self, text: &mut String) {
        let ours: Vec<&Measured> = self.cases.iter().filter(|case| case.contender == OURS).collect();
        let mut names: Vec<&String> = ours.iter().flat_map(|case| case.stages.keys()).collect();
        names.sort();
        names.dedup();
        let _ = write!(text, "\n{:<26}", "stages, p50/p95");
        for case in &ours {
            let _ = write!(text, " {:>17}", case.case);
        }
        text.push('\n');
        for name in names {
            let _ = write!(text, "{name:<26}");
            for case in &ours {
                let cell = case
                    .stages
                    .get(name)
                    .map(|s| format!("{:.1}/{:.1}", s.p50, s.p95));
                let _ = write!(text, " {:>17}", cell.unwrap_or_default());
            }
            text.push('\n');
        }
    }

    pub(super) fn svg(&self) -> String {
        let bars: Vec<Bar> = self
            .cases
            .iter()
            .filter(|case| !case.is_burst)
            .filter_map(|case| {
                let answered = case.answered?;
                Some(Bar {
                    label: format!("{}, {}", case.contender, case.case),
                    value: answered.p50,
                    whisker: answered.p95,
                    colour: if case.contender == OURS {
                        OUR_COLOUR
                    } else {
                        OTHER_COLOUR
                    },
                })
            })
            .collect();
        svg::bars(
            "From the request to the first HTTP 200",
            "Bars: median; lines: 95th percentile. Shorter is better.",
            "ms",
            &bars,
        )
    }
}

fn ms(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1}")).unwrap_or_default()
}
