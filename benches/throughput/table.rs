//! The figures in Markdown.

use super::load::Sample;

pub(super) struct Row {
    name: String,
    pub(super) samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(name: &str) -> Self {
        Row {
            name: name.to_owned(),
            samples: Vec::new(),
        }
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of).collect())
    }

    /// Round by round: what slowed one down, slowed its neighbour down.
    fn ratio(&self, baseline: &Row, of: impl Fn(&Sample) -> f64) -> f64 {
        let pairs = self.samples.iter().zip(&baseline.samples);
        median(pairs.map(|(own, other)| of(own) / of(other)).collect())
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// The first row is what the others are compared with.
pub(super) fn print(title: &str, rows: &[Row]) {
    println!("\n| {title} | requests/s | of the first | µs of CPU a request | of the first |");
    println!("|---|---:|---:|---:|---:|");
    for row in rows {
        let speed = |sample: &Sample| sample.requests_per_second;
        let cost = |sample: &Sample| sample.cpu_micros_per_request;
        println!(
            "| {} | {:.0} | {:.2} | {:.1} | {:.2} |",
            row.name,
            row.median(speed),
            row.ratio(&rows[0], speed),
            row.median(cost),
            row.ratio(&rows[0], cost),
        );
    }
}
