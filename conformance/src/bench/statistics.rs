//! What samples say: medians, quartiles, and ratios of paired samples with their uncertainty.

use serde::Serialize;

/// Resamples behind an interval.
const RESAMPLES: usize = 2000;

/// The middle of samples, and where the middle half of them lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) lower_quartile: f64,
    pub(super) upper_quartile: f64,
}

/// A median ratio, and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ratio {
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
}

impl Ratio {
    /// Of each round's sample to the same round's base; a round that lacks one does not count.
    /// The interval is the percentile bootstrap of the median; `seed` makes it repeatable.
    pub(super) fn paired(samples: &[Option<f64>], base: &[Option<f64>], seed: u64) -> Option<Self> {
        let pairs = samples.iter().zip(base);
        let ratios: Vec<f64> = pairs
            .filter_map(|(sample, base)| Some((*sample)? / (*base)?))
            .filter(|ratio| ratio.is_finite())
            .collect();
        let mut random = fastrand::Rng::with_seed(seed);
        let medians: Option<Vec<f64>> = (0..RESAMPLES)
            .map(|_| {
                let draw = (0..ratios.len()).map(|_| random.choice(&ratios).copied());
                median(&draw.collect::<Option<Vec<_>>>()?)
            })
            .collect();
        let medians = sorted(&medians?);
        Some(Self {
            median: median(&ratios)?,
            low: quantile(&medians, 0.025)?,
            high: quantile(&medians, 0.975)?,
        })
    }
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
        let ratio = Ratio::paired(&twice, &base, 1).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high), (2.0, 2.0, 2.0));
    }

    #[test]
    fn a_round_without_one_of_the_two_does_not_count() {
        let ratio = Ratio::paired(
            &[Some(3.0), None, Some(9.0)],
            &[Some(1.0), Some(1.0), None],
            1,
        );
        assert_eq!(ratio.map(|ratio| ratio.median), Some(3.0));
        assert_eq!(Ratio::paired(&[None], &[Some(1.0)], 1), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_repeats_with_its_seed() {
        let samples: Vec<_> = (1..=9).map(|value| Some(f64::from(value))).collect();
        let base = vec![Some(1.0); 9];
        let ratio = Ratio::paired(&samples, &base, 7).unwrap();
        assert!(ratio.low < ratio.median && ratio.median < ratio.high);
        assert_eq!(Some(ratio), Ratio::paired(&samples, &base, 7));
    }
}
