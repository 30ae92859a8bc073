//! Statistics of samples: medians, quartiles, and differences of paired samples with their uncertainty.

use serde::Serialize;

/// Resamples behind an interval.
const RESAMPLES: usize = 2000;

/// The median of samples, and their quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) lower_quartile: f64,
    pub(super) upper_quartile: f64,
}

/// A median, and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Estimate {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Summary {
    /// Of at least one sample.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            lower_quartile: quantile(&sorted, 0.25)?,
            upper_quartile: quantile(&sorted, 0.75)?,
        })
    }

    /// With so many digits behind the point.
    pub(super) fn text(&self, digits: usize) -> String {
        let Self {
            median,
            lower_quartile,
            upper_quartile,
        } = self;
        format!("{median:.digits$} ({lower_quartile:.digits$}–{upper_quartile:.digits$})")
    }
}

/// The same resamples for the same samples.
const SEED: u64 = 0x51;

impl Estimate {
    /// The ratio of each round's sample to the same round's base; a round that lacks one does not
    /// count.
    pub(super) fn ratio(samples: &[Option<f64>], base: &[Option<f64>]) -> Option<Self> {
        Self::of(&paired(samples, base, |sample, base| sample / base))
    }

    /// What each round's sample is more than the same round's base.
    pub(super) fn difference(samples: &[Option<f64>], base: &[Option<f64>]) -> Option<Self> {
        Self::of(&paired(samples, base, |sample, base| sample - base))
    }

    /// The interval is the percentile bootstrap of the median.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut random = fastrand::Rng::with_seed(SEED);
        let medians: Option<Vec<f64>> = (0..RESAMPLES)
            .map(|_| {
                let draw = (0..samples.len()).map(|_| random.choice(samples).copied());
                median(&draw.collect::<Option<Vec<_>>>()?)
            })
            .collect();
        let medians = sorted(&medians?);
        Some(Self {
            median: median(samples)?,
            low: quantile(&medians, 0.025)?,
            high: quantile(&medians, 0.975)?,
        })
    }

    /// With so many digits behind the point, and a unit.
    pub(super) fn text(&self, digits: usize, unit: &str) -> String {
        let Self { median, low, high } = self;
        format!("{median:.digits$}{unit} ({low:.digits$}–{high:.digits$})")
    }
}

fn paired(
    samples: &[Option<f64>],
    base: &[Option<f64>],
    compare: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let pairs = samples.iter().zip(base);
    pairs
        .filter_map(|(sample, base)| Some(compare((*sample)?, (*base)?)))
        .filter(|value| value.is_finite())
        .collect()
}

/// The middle of samples.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    quantile(&sorted(samples), 0.5)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// Between the two samples next to the place, linearly.
pub(super) fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "samples are few")]
    let place = at * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of samples"
    )]
    let below = place.floor() as usize;
    let (low, high) = (sorted.get(below)?, sorted.get(last.min(below + 1))?);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_samples() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        let expected = Summary {
            median: 2.5,
            lower_quartile: 1.75,
            upper_quartile: 3.25,
        };
        assert_eq!(summary, expected);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_constant_ratio_has_no_uncertainty() {
        let base = [Some(1.0), Some(2.0), Some(4.0)];
        let twice = base.map(|sample| sample.map(|sample| sample * 2.0));
        let ratio = Estimate::ratio(&twice, &base).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high), (2.0, 2.0, 2.0));
    }

    #[test]
    fn incomplete_round_is_not_compared() {
        let (samples, base) = ([Some(3.0), None, Some(9.0)], [Some(1.0), Some(1.0), None]);
        let ratio = Estimate::ratio(&samples, &base);
        assert_eq!(ratio.map(|ratio| ratio.median), Some(3.0));
        let difference = Estimate::difference(&samples, &base);
        assert_eq!(difference.map(|difference| difference.median), Some(2.0));
        assert_eq!(Estimate::ratio(&[None], &[Some(1.0)]), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_repeats() {
        let samples: Vec<_> = (1..=9).map(f64::from).collect();
        let estimate = Estimate::of(&samples).unwrap();
        assert!(estimate.low < estimate.median && estimate.median < estimate.high);
        assert_eq!(Some(estimate), Estimate::of(&samples));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn estimates_print_their_interval() {
        let estimate = Estimate {
            median: 1.25,
            low: 1.0,
            high: 1.5,
        };
        assert_eq!(estimate.text(2, " ms"), "1.25 ms (1.00–1.50)");
    }
}
