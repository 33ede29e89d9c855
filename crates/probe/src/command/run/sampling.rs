//! Options about sampling: which packets are metered, and what headers state.

use crate::command::usage::UsageError;
use clap::{Args, ValueEnum};
use std::num::NonZeroU16;
use xdprobe_pipeline::capture::{Sampling, SamplingMode};
use xdprobe_pipeline::export::netflow::v5::{SamplingInterval, SamplingMode as HeaderSampling};

/// Options about sampling.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArguments {
    /// Meter one of N packets; counts are not scaled, headers state N
    #[arg(long, default_value = "1:1", value_name = "1:N", value_parser = parse_interval)]
    sampling: NonZeroU16,

    /// Which packets of N
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    sampling_mode: ModeName,

    /// The tap is sampled already, one of N packets: headers state the product of both intervals
    #[arg(long, default_value = "1:1", value_name = "1:N", value_parser = parse_interval)]
    sampled_upstream: NonZeroU16,

    /// The mode that headers state [default: the one in use; deterministic for --sampled-upstream
    /// alone]
    #[arg(long, value_enum, value_name = "MODE")]
    sampling_header: Option<HeaderMode>,
}

/// Ways to sample.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum ModeName {
    /// The first of every N on each core: repeatable, but periodic traffic can bias it
    Deterministic,
    /// Each with a probability of 1/N
    #[default]
    Random,
}

/// Modes in a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum HeaderMode {
    /// The interval without a mode: for collectors that read all 16 bits of the field as interval
    None,
    /// By count
    Deterministic,
    /// By chance
    Random,
}

/// How packets are sampled, once the options are valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SamplingPlan {
    /// What sources do.
    pub capture: Sampling,
    /// What headers say.
    pub header: SamplingInterval,
}

impl SamplingArguments {
    /// Checks that headers can state the sampling.
    ///
    /// # Errors
    ///
    /// A product of both intervals that the header cannot hold, or a mode for no sampling.
    pub fn plan(&self) -> Result<SamplingPlan, UsageError> {
        let Self {
            sampling,
            sampled_upstream,
            ..
        } = *self;
        let interval = u32::from(sampling.get()) * u32::from(sampled_upstream.get());
        let capture = Sampling {
            mode: match self.sampling_mode {
                ModeName::Deterministic => SamplingMode::Deterministic,
                ModeName::Random => SamplingMode::Random,
            },
            interval: sampling,
        };
        let mode = match (self.sampling_header, self.sampling_mode) {
            (Some(_), _) if interval == 1 => {
                return Err(UsageError(
                    "--sampling-header without sampling: add --sampling or --sampled-upstream"
                        .to_owned(),
                ));
            }
            (Some(HeaderMode::None), _) => HeaderSampling::None,
            (Some(HeaderMode::Random), _) => HeaderSampling::Random,
            (None, ModeName::Random) if sampling.get() > 1 => HeaderSampling::Random,
            (Some(HeaderMode::Deterministic), _) | (None, _) => HeaderSampling::Deterministic,
        };
        let header = SamplingInterval::new(mode, interval).ok_or_else(|| {
            UsageError(format!(
                "--sampling 1:{sampling} of --sampled-upstream 1:{sampled_upstream} is \
                 1:{interval}, which a header cannot hold: expected at most 1:{}",
                SamplingInterval::INTERVAL_MAX
            ))
        })?;
        Ok(SamplingPlan { capture, header })
    }
}

fn parse_interval(text: &str) -> Result<NonZeroU16, String> {
    let interval: Option<NonZeroU16> = text
        .strip_prefix("1:")
        .and_then(|interval| interval.parse().ok());
    interval
        .filter(|interval| interval.get() <= SamplingInterval::INTERVAL_MAX)
        .ok_or_else(|| {
            format!(
                "'{text}' is not a sampling interval: expected 1:N, with N from 1 to {}, as in \
                 1:100",
                SamplingInterval::INTERVAL_MAX
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArguments,
    }

    fn planned(line: &str) -> Result<SamplingPlan, UsageError> {
        Line::try_parse_from(format!("run {line}").split_whitespace())
            .unwrap()
            .sampling
            .plan()
    }

    #[test]
    fn headers_tell_what_is_done_unless_they_are_told_otherwise() {
        let header = |line| planned(line).unwrap().header.to_bits();
        assert_eq!(header(""), 0);
        assert_eq!(header("--sampling 1:100"), 2 << 14 | 100);
        assert_eq!(
            header("--sampling 1:100 --sampling-mode deterministic"),
            1 << 14 | 100
        );
        assert_eq!(header("--sampling 1:100 --sampling-header none"), 100);
        assert_eq!(
            header("--sampling 1:100 --sampled-upstream 1:10"),
            2 << 14 | 1000
        );
        assert_eq!(header("--sampled-upstream 1:10"), 1 << 14 | 10);
        assert_eq!(
            planned("--sampled-upstream 1:10")
                .unwrap()
                .capture
                .interval
                .get(),
            1
        );
    }

    #[test]
    fn refuses_what_no_header_can_tell() {
        let refused = |line| planned(line).unwrap_err().0;
        let error = refused("--sampling 1:1000 --sampled-upstream 1:17");
        assert!(
            error.contains("is 1:17000") && error.contains("at most 1:16383"),
            "{error}"
        );
        assert!(refused("--sampling-header random").contains("without sampling"));
        for bad in ["1:0", "1:16384", "2:3", "100", "1:", ""] {
            assert!(
                parse_interval(bad).unwrap_err().contains("expected 1:N"),
                "{bad}"
            );
        }
    }
}
