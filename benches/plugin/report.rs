//! Figures, ratios and targets, as they are printed.

use std::io::Write;

/// From this ratio of the largest to the smallest of one figure's rounds on, the machine is called noisy.
const NOISY: f64 = 1.3;

/// One figure, once for each round.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) of: String,
    pub(crate) rounds: Vec<f64>,
}

impl Series {
    pub(crate) fn new(of: &str) -> Self {
        Self { of: of.to_owned(), rounds: Vec::new() }
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn least(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// What is wanted of our figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// The other's figure is at least so many times ours: costs.
    Cheaper(f64),
    /// Ours is at least so many times the other's: throughput.
    Faster(f64),
    /// Ours is at most so many times the other's: costs.
    AtMost(f64),
    /// Ours is at most this, whatever others do.
    Limit(f64),
    /// Nothing; the figure is there to compare.
    None,
}

impl Target {
    /// The ratio that it speaks of, in words, and whether it is met.
    fn judge(self, ours: f64, other: f64) -> (String, String, Option<bool>) {
        match self {
            Self::Cheaper(times) => {
                let ratio = other / ours;
                (format!("{ratio:.2} times ours"), format!("at least {times}"), Some(ratio >= times))
            }
            Self::Faster(times) => {
                let ratio = ours / other;
                (format!("ours is {ratio:.2} of it"), format!("at least {times}"), Some(ratio >= times))
            }
            Self::AtMost(times) => {
                let ratio = ours / other;
                (format!("ours is {ratio:.2} of it"), format!("at most {times}"), Some(ratio <= times))
            }
            Self::Limit(limit) => (String::new(), format!("at most {limit}"), Some(ours <= limit)),
            Self::None => (format!("ours is {:.2} of it", ours / other), String::new(), None),
        }
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    missed: Vec<String>,
    unmeasured: Vec<String>,
    noisy: Vec<String>,
}

impl Report {
    /// Print a figure of ours and those of others, each with what is wanted of the two.
    pub(crate) fn figure(
        &mut self,
        title: &str,
        unit: &str,
        ours: &Series,
        limit: Target,
        others: &[(&Series, Target)],
    ) {
        say(&format!("\n{title} [{unit}]"));
        self.row(title, ours, ours, limit, matches!(limit, Target::Limit(_)));
        for (series, target) in others {
            self.row(title, ours, series, *target, true);
        }
    }

    fn row(&mut self, title: &str, ours: &Series, series: &Series, target: Target, judged: bool) {
        let name = &series.of;
        if series.rounds.is_empty() {
            say(&format!("  {name:<34} not measured"));
            if !matches!(target, Target::None) {
                self.unmeasured.push(format!("{title}: beside {name}"));
            }
            return;
        }
        let (least, most) = (series.least(), series.most());
        let range = format!("({}-{})", number(least), number(most));
        let mut line = format!("  {name:<34} {:>9} {range:<19}", number(series.median()));
        if most > least * NOISY {
            line.push_str(" noisy");
            self.noisy.push(format!("{title}: {name} {range}"));
        }
        if judged {
            let (ratio, wanted, met) = target.judge(ours.median(), series.median());
            line.push_str(&format!("  {ratio}"));
            if let Some(met) = met {
                line.push_str(&format!("  [{wanted}: {}]", if met { "met" } else { "MISSED" }));
                if !met {
                    self.missed.push(format!("{title}: beside {name}: {ratio} ({wanted})"));
                }
            }
        }
        say(line.trim_end());
    }

    /// Note that something could not be measured, and why.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        say(&format!("\n{what}: not measured: {why}"));
        self.unmeasured.push(format!("{what}: {why}"));
    }

    /// Say what was missed, and what the figures are worth.
    pub(crate) fn summary(&self) {
        for (title, lines) in [
            ("Missed targets", &self.missed),
            ("Not measured", &self.unmeasured),
            ("Noisy: the rounds differ by more than 30 %", &self.noisy),
        ] {
            if !lines.is_empty() {
                say(&format!("\n{title}:\n  {}", lines.join("\n  ")));
            }
        }
        if self.missed.is_empty() {
            say("\nAll targets that were measured are met.");
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Print a line at once, also into a pipe.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    _ = writeln!(out, "{line}");
    _ = out.flush();
}
