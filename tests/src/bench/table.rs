//! Numbers in columns.

/// A number, or a dash, right-aligned.
pub(super) fn cell(value: Option<f64>, width: usize, decimals: usize) -> String {
    match value {
        Some(value) => format!("{value:>width$.decimals$}"),
        None => format!("{:>width$}", "-"),
    }
}

/// One number in terms of another one, where both are known.
pub(super) fn ratio(value: Option<f64>, floor: Option<f64>) -> Option<f64> {
    Some(value? / floor.filter(|floor| *floor > 0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_a_dash() {
        assert_eq!(cell(Some(1.25), 7, 1), "    1.2");
        assert_eq!(cell(ratio(Some(3.0), Some(2.0)), 5, 2), " 1.50");
        assert_eq!(cell(ratio(Some(3.0), None), 5, 2), "    -");
        assert_eq!(ratio(Some(1.0), Some(0.0)), None);
    }
}
