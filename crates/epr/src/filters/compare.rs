//! When JSON values are equal, and which is greater: as PostgreSQL's jsonb has it.
//!
//! Numbers are compared by the decimal that they are written as, without rounding: a binary fraction stands for its shortest
//! decimal, because that is what is stored.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Whether two values are equal. 1 equals 1.0; the order of names in objects does not matter.
pub(crate) fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => numbers(left, right).is_eq(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let same = |(name, value): (&String, &Value)| {
                right.get(name).is_some_and(|counterpart| equal(value, counterpart))
            };
            left.len() == right.len() && left.iter().all(same)
        }
        _ => left == right,
    }
}

/// The order of two numbers, two strings (by their bytes) or two booleans (false is less); none for other pairs.
pub(super) fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => Some(numbers(left, right)),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

fn numbers(left: &Number, right: &Number) -> Ordering {
    if let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) {
        return left.cmp(&right);
    }
    Decimal::of(left).cmp(&Decimal::of(right))
}

/// A number as sign, digits and the place of the point: ±0.digits × 10^exponent, the first and last digit not 0.
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn of(number: &Number) -> Self {
        let text = number.to_string();
        let (negative, text) = text.strip_prefix('-').map_or((false, text.as_str()), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        // As serde_json writes it, so neither the exponent nor the number of digits comes near the bounds of i64.
        let exponent: i64 = exponent.parse().unwrap_or(0);
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0');
        let leading = digits.len() - significant.len();
        let point = i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(leading).unwrap_or(0);
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            return Self { negative: false, digits: String::new(), exponent: 0 };
        }
        Self { negative, digits: significant.to_owned(), exponent: exponent + point }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.sign().cmp(&other.sign());
        if signs.is_ne() || self.sign() == 0 {
            return signs;
        }
        let magnitudes = self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
        if self.negative { magnitudes.reverse() } else { magnitudes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_compared_by_their_decimals() {
        let ascending = [
            json!(-1e300),
            json!(i64::MIN),
            json!(-2.5),
            json!(-2),
            json!(-0.001),
            json!(0),
            json!(5e-324),
            json!(0.1),
            json!(0.11),
            json!(0.2),
            json!(1),
            json!(9.5),
            json!(10),
            json!(100),
            json!(9_007_199_254_740_992.0),
            json!(9_007_199_254_740_993_i64),
            json!(i64::MAX),
            // Written 9.223372036854776e18.
            json!(9_223_372_036_854_775_808.0),
            json!(u64::MAX),
            json!(1e23),
        ];
        for (i, left) in ascending.iter().enumerate() {
            for (j, right) in ascending.iter().enumerate() {
                assert_eq!(order(left, right), Some(i.cmp(&j)), "{left} {right}");
                assert_eq!(equal(left, right), i == j, "{left} {right}");
            }
        }
        for (left, right) in [
            (json!(1), json!(1.0)),
            (json!(0), json!(-0.0)),
            (json!(100), json!(1e2)),
            (json!(1e19), json!(10_000_000_000_000_000_000_u64)),
        ] {
            assert!(equal(&left, &right), "{left} {right}");
        }
    }

    #[test]
    fn containers_are_equal_when_all_inside_is() {
        assert!(equal(&json!({"a": [1, {"b": 2.0}], "c": null}), &json!({"c": null, "a": [1.0, {"b": 2}]})));
        assert!(!equal(&json!({"a": 1}), &json!({"a": 1, "b": 1})));
        assert!(!equal(&json!({"a": 1, "c": 1}), &json!({"a": 1, "b": 1})));
        assert!(!equal(&json!([1, 2]), &json!([2, 1])));
        assert!(!equal(&json!([1]), &json!(1)));
        assert!(!equal(&json!("1"), &json!(1)));
    }

    #[test]
    fn only_values_of_one_type_have_an_order() {
        assert_eq!(order(&json!("b"), &json!("a")), Some(Ordering::Greater));
        assert_eq!(order(&json!("Z"), &json!("a")), Some(Ordering::Less));
        assert_eq!(order(&json!(false), &json!(true)), Some(Ordering::Less));
        for pair in [(json!(1), json!("1")), (json!(null), json!(null)), (json!([1]), json!([1]))] {
            assert_eq!(order(&pair.0, &pair.1), None);
        }
    }
}
