//! What is reported of several rounds.

/// The median; of an even number of values, the upper one of the two in the middle.
///
/// # Panics
///
/// If there is no value.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of the ratios of `one` to `other` within each round.
pub fn median_ratio(one: &[f64], other: &[f64]) -> f64 {
    median(one.iter().zip(other).map(|(one, other)| one / other))
}
