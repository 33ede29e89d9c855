//! The metrics of a running probe, as a client reads them.

use super::{Probe, pause};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use xdprobe_lab::namespace::Namespace;

/// What `/metrics` said.
#[derive(Clone, Debug)]
pub struct Page(String);

/// The status and body of an answer.
pub fn get(namespace: &Namespace, address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    let answer = namespace.run(|| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer}"));
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

impl Page {
    /// The page as it is now.
    pub fn of(namespace: &Namespace, probe: &Probe) -> Self {
        let (status, body) = get(namespace, probe.metrics(), "/metrics");
        assert_eq!(status, 200, "{body}");
        Self(body)
    }

    /// The page once it is as expected.
    pub fn await_on(
        namespace: &Namespace,
        probe: &Probe,
        expected: impl Fn(&Self) -> bool,
    ) -> Self {
        for _ in 0..600 {
            let page = Self::of(namespace, probe);
            if expected(&page) {
                return page;
            }
            pause(100);
        }
        panic!("waited in vain: {}", Self::of(namespace, probe).0);
    }

    /// The page as text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Each series with its value: `name{label="value"}`.
    pub fn series(&self) -> impl Iterator<Item = (&str, f64)> {
        let lines = self
            .0
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        lines.map(|line| {
            line.rsplit_once(' ')
                .map(|(series, value)| (series, value.parse().unwrap()))
                .unwrap()
        })
    }

    /// The sum of a metric over the series that have all these labels, as they are written on the
    /// page.
    pub fn sum_of(&self, metric: &str, labels: &[&str]) -> u64 {
        let values = self.series().filter(|(series, _)| {
            series.split('{').next() == Some(metric)
                && labels.iter().all(|label| series.contains(label))
        });
        let values: Vec<_> = values.map(|(_, value)| value).collect();
        assert!(
            !values.is_empty(),
            "no {metric} with {labels:?} in {}",
            self.0
        );
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are whole and positive"
        )]
        let sum = values.iter().sum::<f64>() as u64;
        sum
    }

    /// The sum of a metric over all its series.
    pub fn sum(&self, metric: &str) -> u64 {
        self.sum_of(metric, &[])
    }

    /// Each metric with its kind and labels.
    pub fn metrics(&self) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut metrics = BTreeMap::new();
        for line in self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
        {
            let (name, kind) = line.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
        for (series, _) in self.series() {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let names = labels
                .trim_end_matches('}')
                .split(',')
                .filter_map(|label| label.split_once('='));
            let (_, known) = metrics
                .get_mut(name)
                .unwrap_or_else(|| panic!("{name} has no type"));
            known.extend(names.map(|(name, _)| name.to_owned()));
        }
        metrics
    }
}
