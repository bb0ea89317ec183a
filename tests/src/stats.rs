//! Whether observed counts can come from the expected shares.

/// Counts whose p-value is below this are rejected: a false alarm once in a million runs.
pub const REJECT_BELOW: f64 = 1e-6;

/// The probability to see counts at least this uneven, if each of them were equally likely.
///
/// # Panics
/// With fewer than 5 expected of each, where the chi-squared approximation does not hold.
pub fn p_of_equal_shares(counts: &[u64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are thousands, not 2^52")]
    let (total, kinds) = (counts.iter().sum::<u64>() as f64, counts.len() as f64);
    let expected = total / kinds;
    assert!(expected >= 5.0, "{counts:?}: too few for a chi-squared test");
    #[expect(clippy::cast_precision_loss, reason = "counts are thousands, not 2^52")]
    let statistic: f64 = counts
        .iter()
        .map(|count| (*count as f64 - expected).powi(2) / expected)
        .sum();
    chi_squared_survival(statistic, kinds - 1.0)
}

/// P(X >= x) for a chi-squared X with this many degrees of freedom.
pub fn chi_squared_survival(x: f64, degrees: f64) -> f64 {
    if degrees == 0.0 {
        // One kind only: whatever was counted is what was expected.
        return 1.0;
    }
    upper_gamma(degrees / 2.0, x / 2.0)
}

/// The regularised upper incomplete gamma function Q(a, x).
fn upper_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let scale = (a * x.ln() - x - ln_gamma(a)).exp();
    // Each of the two expansions converges fast on its side of a + 1 and slowly on the other.
    if x < a + 1.0 {
        1.0 - scale * lower_series(a, x)
    } else {
        scale * upper_fraction(a, x)
    }
}

fn lower_series(a: f64, x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
    while term > sum * 1e-16 {
        n += 1.0;
        term *= x / n;
        sum += term;
    }
    sum
}

/// Legendre's continued fraction, evaluated by Lentz's method.
fn upper_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut denominator = x + 1.0 - a;
    let (mut ahead, mut behind) = (1.0 / TINY, 1.0 / denominator);
    let mut value = behind;
    for step in (1..10_000).map(f64::from) {
        let numerator = -step * (step - a);
        denominator += 2.0;
        behind = 1.0 / non_zero(numerator * behind + denominator, TINY);
        ahead = non_zero(denominator + numerator / ahead, TINY);
        let factor = ahead * behind;
        value *= factor;
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

fn non_zero(value: f64, tiny: f64) -> f64 {
    if value.abs() < tiny { tiny } else { value }
}

/// Stirling's series after shifting the argument to where it is exact to double precision.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

/// The middle one, or the mean of the two in the middle.
///
/// # Panics
/// Of nothing there is no median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        f64::midpoint(sorted[half - 1], sorted[half])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64) {
        assert!(
            (found - wanted).abs() <= wanted.abs() * 1e-9,
            "{found} and not {wanted}"
        );
    }

    #[test]
    fn ln_gamma_of_known_arguments() {
        close(ln_gamma(5.0), 24f64.ln());
        close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln());
        close(ln_gamma(18.0), (1..18).map(f64::from).product::<f64>().ln());
    }

    #[test]
    fn survival_of_two_degrees_is_an_exponential() {
        for x in [0.1, 1.0, 5.0, 27.6, 100.0] {
            close(chi_squared_survival(x, 2.0), (-x / 2.0).exp());
        }
    }

    #[test]
    fn survival_at_the_quantiles_of_printed_tables() {
        for (degrees, x, p) in [
            (1.0, 3.841_458_820_694_124, 0.05),
            (4.0, 9.487_729_036_781_154, 0.05),
            (10.0, 23.209_251_158_954_36, 0.01),
            (36.0, 50.998_460_165_710_28, 0.05),
        ] {
            close(chi_squared_survival(x, degrees), p);
        }
    }

    #[test]
    fn equal_counts_are_certain_and_one_kind_always_is() {
        close(p_of_equal_shares(&[1000, 1000, 1000]), 1.0);
        close(p_of_equal_shares(&[3000]), 1.0);
    }

    #[test]
    fn the_classic_wrong_probabilities_are_rejected() {
        // 1/3 for each of three rules instead of 1/3, 1/2, 1: the last one gets 4/9 of all.
        assert!(p_of_equal_shares(&[1000, 667, 1333]) < REJECT_BELOW);
        assert!(p_of_equal_shares(&[1030, 970, 1000]) > 0.1);
    }

    #[test]
    fn medians() {
        close(median(&[3.0, 1.0, 2.0]), 2.0);
        close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
