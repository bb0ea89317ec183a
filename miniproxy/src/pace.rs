//! When to try again, when to look again. Pure: times come in as arguments.

use std::time::Duration;

/// The first wait after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// No wait is longer than kube-proxy's sync period.
const LONGEST: Duration = Duration::from_secs(30);

/// How long to wait before trying again after so many failures in a row: it doubles each time.
pub fn back_off(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST)
}

/// How long between two comparisons with a kernel that cannot say whether its rules changed.
///
/// A comparison may take one part in fifty of the time: at most 2 % of a processor.
pub fn between_comparisons(last_took: Duration, longest: Duration) -> Duration {
    last_took
        .saturating_mul(50)
        .clamp(Duration::from_secs(1).min(longest), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let longest = Duration::from_secs(30);
        assert_eq!(
            between_comparisons(Duration::from_millis(5), longest),
            Duration::from_secs(1)
        );
        assert_eq!(
            between_comparisons(Duration::from_millis(200), longest),
            Duration::from_secs(10)
        );
        assert_eq!(between_comparisons(Duration::from_secs(5), longest), longest);
        assert_eq!(
            between_comparisons(Duration::ZERO, Duration::from_millis(200)),
            Duration::from_millis(200)
        );
    }
}
