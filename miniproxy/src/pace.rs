//! When to try again, when to look again. Pure: times come in as arguments.

use std::time::Duration;

use crate::engine::Pace;

/// The first wait after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// No wait is longer than kube-proxy's sync period.
const LONGEST: Duration = Duration::from_secs(30);
/// kube-proxy's own `minSyncPeriod`, where nothing else is asked for.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How long to wait before trying again after so many failures in a row: it doubles each time.
pub fn back_off(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST)
}

/// How long from one full comparison to the next.
///
/// A comparison may take one part in fifty of the time: at most 2 % of a processor. Where the kernel
/// cannot say whether its rules changed, small rule sets are compared each second, and large ones
/// at least once in a sync period all the same.
pub fn between_comparisons(pace: &Pace, last_took: Duration) -> Duration {
    let fair = last_took.saturating_mul(50);
    if pace.counted {
        return fair.max(pace.sync_period);
    }
    fair.clamp(Duration::from_secs(1).min(pace.sync_period), pace.sync_period)
}

/// When the next write may begin after one that ended at `.0` and took `.1`.
///
/// kube-proxy waits a second between two syncs because a sync is dear. Here a write may follow as
/// soon as it leaves half of the time free, and never later than after that second.
pub fn rest(pace: &Pace, ended: Option<(Duration, Duration)>) -> Duration {
    let Some((ended, took)) = ended else {
        return Duration::ZERO;
    };
    ended + pace.min_interval.unwrap_or_else(|| took.min(LONGEST_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(counted: bool, sync_period: u64, min_interval: Option<u64>) -> Pace {
        Pace {
            min_interval: min_interval.map(Duration::from_millis),
            sync_period: Duration::from_millis(sync_period),
            look: Duration::from_millis(250),
            counted,
        }
    }

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let waits: Vec<u64> = (1..=9)
            .map(|failures| u64::try_from(back_off(failures).as_millis()).unwrap())
            .collect();
        assert_eq!(
            waits,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
        assert_eq!(back_off(u32::MAX), LONGEST);
    }

    #[test]
    fn a_large_rule_set_is_compared_less_often() {
        let ms = Duration::from_millis;
        let uncounted = pace(false, 30_000, None);
        for (took, wait) in [(5, 1000), (200, 10_000), (5000, 30_000)] {
            assert_eq!(between_comparisons(&uncounted, ms(took)), ms(wait));
        }
        assert_eq!(between_comparisons(&pace(false, 200, None), ms(0)), ms(200));
        let counted = pace(true, 30_000, None);
        for (took, wait) in [(5, 30_000), (2000, 100_000)] {
            assert_eq!(between_comparisons(&counted, ms(took)), ms(wait));
        }
    }

    #[test]
    fn a_write_rests_as_long_as_it_took_or_as_it_is_told() {
        let ms = Duration::from_millis;
        let ended = |took| Some((ms(1000), ms(took)));
        assert_eq!(rest(&pace(true, 30_000, None), None), ms(0));
        assert_eq!(rest(&pace(true, 30_000, None), ended(40)), ms(1040));
        assert_eq!(rest(&pace(true, 30_000, None), ended(9000)), ms(2000));
        assert_eq!(rest(&pace(true, 30_000, Some(5000)), ended(40)), ms(6000));
        assert_eq!(rest(&pace(true, 30_000, Some(0)), ended(9000)), ms(1000));
    }
}
