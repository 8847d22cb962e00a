//! Units of measure: what they measure and by which factor.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::latex::qualifier::{is_no_thing, words};
use crate::latex::ratio::Ratio;

/// A product of powers of base units, and the factor to them.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    factor: Ratio,
    /// Base units by name with their exponents, sorted, none of them zero.
    bases: Vec<(String, i64)>,
    /// Whether its last word is a known unit, a plural, or what something is divided by. Another word may say
    /// anything of the number before it.
    is_counted: bool,
    /// Whether a word of it cannot name a thing, so that something is said of the number before it.
    is_said: bool,
    /// Whether units were divided by others.
    is_rate: bool,
}

/// How a unit is written makes it no other one.
impl PartialEq for Unit {
    fn eq(&self, other: &Unit) -> bool {
        self.factor == other.factor && self.bases == other.bases
    }
}

/// Known units: names, base unit, exponent, and the factor as numerator and denominator. Lengths in metres, masses
/// in grams, times in seconds, money in dollars, and the imperial ones exactly.
const KNOWN: &[(&str, &str, i64, i64, i64)] = &[
    ("m meter meters metre metres", "m", 1, 1, 1),
    ("mm millimeter millimeters millimetre millimetres", "m", 1, 1, 1000),
    ("cm centimeter centimeters centimetre centimetres", "m", 1, 1, 100),
    ("dm decimeter decimeters decimetre decimetres", "m", 1, 1, 10),
    ("km kilometer kilometers kilometre kilometres", "m", 1, 1000, 1),
    ("in inch inches", "m", 1, 254, 10_000),
    ("ft foot feet", "m", 1, 3048, 10_000),
    ("yd yds yard yards", "m", 1, 9144, 10_000),
    ("mi mile miles", "m", 1, 1_609_344, 1000),
    ("g gram grams", "g", 1, 1, 1),
    ("mg milligram milligrams", "g", 1, 1, 1000),
    ("kg kilogram kilograms", "g", 1, 1000, 1),
    ("lb lbs pound pounds", "g", 1, 45_359_237, 100_000),
    ("oz ounce ounces", "g", 1, 45_359_237, 1_600_000),
    ("s sec secs second seconds", "s", 1, 1, 1),
    ("ms millisecond milliseconds", "s", 1, 1, 1000),
    ("min mins minute minutes", "s", 1, 60, 1),
    ("h hr hrs hour hours", "s", 1, 3600, 1),
    ("day days", "s", 1, 86_400, 1),
    ("week weeks", "s", 1, 604_800, 1),
    ("year years", "year", 1, 1, 1),
    ("month months", "year", 1, 1, 12),
    ("l liter liters litre litres", "m", 3, 1, 1000),
    ("ml milliliter milliliters millilitre millilitres", "m", 3, 1, 1_000_000),
    ("dollar dollars usd", "dollar", 1, 1, 1),
    ("cent cents", "dollar", 1, 1, 100),
    ("euro euros eur", "euro", 1, 1, 1),
    ("sterling", "sterling", 1, 1, 1),
    ("yen", "yen", 1, 1, 1),
    ("rupee rupees rs inr", "rupee", 1, 1, 1),
    ("dozen", "", 1, 12, 1),
    ("kwh", "kwh", 1, 1, 1),
    ("n newton newtons", "newton", 1, 1, 1),
    ("kn kilonewton kilonewtons", "newton", 1, 1000, 1),
    ("j joule joules", "joule", 1, 1, 1),
    ("kj kilojoule kilojoules", "joule", 1, 1000, 1),
    ("w watt watts", "watt", 1, 1, 1),
    ("kw kilowatt kilowatts", "watt", 1, 1000, 1),
    ("hz hertz", "s", -1, 1, 1),
    ("khz kilohertz", "s", -1, 1000, 1),
    ("mhz megahertz", "s", -1, 1_000_000, 1),
    ("ghz gigahertz", "s", -1, 1_000_000_000, 1),
    ("pa pascal pascals", "pascal", 1, 1, 1),
    ("kpa kilopascal kilopascals", "pascal", 1, 1000, 1),
    ("v volt volts", "volt", 1, 1, 1),
    ("kv kilovolt kilovolts", "volt", 1, 1000, 1),
    ("ampere amperes amp amps", "ampere", 1, 1, 1),
    ("ma milliampere milliamperes", "ampere", 1, 1, 1000),
    ("ohm ohms omega", "ohm", 1, 1, 1),
    ("kohm kohms kiloohm kiloohms komega", "ohm", 1, 1000, 1),
    ("mol mole moles", "mole", 1, 1, 1),
    ("kelvin kelvins", "kelvin", 1, 1, 1),
    ("celsius centigrade", "celsius", 1, 1, 1),
    ("fahrenheit", "fahrenheit", 1, 1, 1),
    ("nm nanometer nanometers nanometre nanometres", "m", 1, 1, 1_000_000_000),
    ("micrometer micrometers micrometre micrometres micron microns mum", "m", 1, 1, 1_000_000),
    ("ns nanosecond nanoseconds", "s", 1, 1, 1_000_000_000),
    ("microsecond microseconds mus", "s", 1, 1, 1_000_000),
    ("am", "am", 1, 1, 1),
    ("pm", "pm", 1, 1, 1),
    ("rad rads radian radians", "", 1, 1, 1),
    ("unit units", "", 1, 1, 1),
];

/// Large numbers that are written as words: `1.5 million`.
const SCALES: [(&str, i64); 5] = [
    ("hundred", 100),
    ("thousand", 1000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
];

/// The number that a word multiplies the number before it with.
pub(crate) fn scale(word: &str) -> Option<i64> {
    let word = word.to_lowercase();
    let singular = word.strip_suffix('s').unwrap_or(&word);
    SCALES.iter().find(|(name, _)| *name == singular).map(|(_, factor)| *factor)
}

/// Speeds that are one word.
const SPEEDS: &[(&str, i64, i64)] = &[("mph", 1_609_344, 3_600_000), ("kph kmh", 1000, 3600)];

/// Letters that are a unit only where they are marked as text, because without it they are variables; among longer
/// words those that are also something else.
const NEVER_BARE: &[&str] = &[
    "in", "ms", "hz", "kn", "kj", "kw", "pa", "kv", "ma", "nm", "ns", "mum", "mus", "am", "pm", "amp",
    "omega", "komega", "mol", "khz", "mhz", "ghz", "kpa",
];

/// Units that are written with capitals inside, which tells them from products.
const BARE_WITH_CAPITALS: &[&str] =
    &["Hz", "kHz", "MHz", "GHz", "Pa", "kPa", "kJ", "kW", "kN", "kV", "mA", "kWh", "mL", "mol", "USD"];

/// All known units by their names.
static NAMED: LazyLock<HashMap<&'static str, Unit>> = LazyLock::new(|| {
    let mut named = HashMap::new();
    for (names, base, exponent, top, bottom) in KNOWN {
        let bases = if base.is_empty() { Vec::new() } else { vec![(base.to_string(), *exponent)] };
        let unit =
            Unit { factor: fraction(*top, *bottom), bases, is_counted: true, is_said: false, is_rate: false };
        named.extend(names.split(' ').map(|name| (name, unit.clone())));
    }
    for (names, top, bottom) in SPEEDS {
        let bases = vec![("m".to_string(), 1), ("s".to_string(), -1)];
        let unit =
            Unit { factor: fraction(*top, *bottom), bases, is_counted: true, is_said: false, is_rate: false };
        named.extend(names.split(' ').map(|name| (name, unit.clone())));
    }
    named
});

/// Units beyond those that are converted, and things whose names are no plurals in `s`.
static COUNTED: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "men women people children feet teeth geese mice oxen fish sheep deer dice cattle police staff dozen \
         vertices criteria data formulae radii foci phenomena bacteria percent pct percentage gallon quart pint \
         cup tablespoon teaspoon tbsp tsp acre hectare calorie kcal bit byte knot rpm atm bar torr tesla farad \
         coulomb henry candela lumen lux decibel db ev kev mev gev gray steradian arcmin arcsec au parsec ton \
         tonne barrel bushel carat degree each apiece total altogether overall left remaining \
         gal qt pt mph kph kmh mpg bps fps psi square cubic grade place floor century quadrant position rank year-old usd eur gbp inr rs",
    )
});

/// Whether a word is a unit or a plural, so that a number before it counts it. Other scripts have other plurals.
pub(crate) fn is_counted(word: &str) -> bool {
    if !word.is_ascii() || Unit::is_known(word) {
        return true;
    }
    let word = word.to_ascii_lowercase();
    let is_plural = word.len() > 2
        && word.ends_with('s')
        && !["ss", "us", "is", "'s"].iter().any(|singular| word.ends_with(singular));
    is_plural || COUNTED.contains(word.as_str())
}

impl Unit {
    /// A unit by its name, known or not; a word that is no known unit is what is counted (`apples`).
    pub(crate) fn named(word: &str) -> Unit {
        let word = word.trim_end_matches('.').to_lowercase();
        NAMED.get(word.as_str()).cloned().unwrap_or_else(|| {
            // Apples and an apple are the same thing.
            let singular = word.strip_suffix('s').unwrap_or(&word);
            let bases = vec![(singular.to_string(), 1)];
            Unit {
                factor: Ratio::whole(1),
                bases,
                is_counted: is_counted(&word),
                is_said: is_no_thing(&word),
                is_rate: false,
            }
        })
    }

    /// Whether a word of two or three letters outside of any text command is a unit rather than a product.
    pub(crate) fn is_bare(word: &str) -> bool {
        BARE_WITH_CAPITALS.contains(&word)
            || word.len() > 1 && !NEVER_BARE.contains(&word) && NAMED.contains_key(word)
    }

    /// Whether a word is the name of a unit.
    pub(crate) fn is_known(word: &str) -> bool {
        NAMED.contains_key(word) || NAMED.contains_key(word.to_lowercase().as_str())
    }

    /// Whether this is the half of a day that a time is in.
    pub(crate) fn is_day_half(&self) -> bool {
        matches!(&self.bases[..], [(name, 1)] if name == "am" || name == "pm")
    }

    /// Whether this measures something known, rather than counting things.
    pub(crate) fn is_physical(&self) -> bool {
        !self.bases.is_empty() && self.bases.iter().all(|(name, _)| KNOWN.iter().any(|entry| entry.1 == name))
    }

    /// The unit that is none.
    pub(crate) fn none() -> Unit {
        Unit { factor: Ratio::whole(1), bases: Vec::new(), is_counted: true, is_said: false, is_rate: false }
    }

    /// Whether the words of this name what is counted or measured.
    pub(crate) fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Whether its words say something of the number instead.
    pub(crate) fn is_said(&self) -> bool {
        self.is_said
    }

    /// What a number stands for by itself in this unit: a dozen is twelve. Days per week are measured, whatever they
    /// come to.
    pub(crate) fn number(&self) -> Option<Ratio> {
        if self.is_rate { None } else { self.factor_to(&Unit::none()) }
    }

    /// A whole power of it, if it is a small one.
    pub(crate) fn power(&self, exponent: i64) -> Option<Unit> {
        if !(-9..=9).contains(&exponent) || exponent == 0 {
            return None;
        }
        let bases = self.bases.iter().map(|(name, power)| (name.clone(), power * exponent)).collect();
        let is_rate = exponent < 0;
        Some(Unit {
            factor: self.factor.power(exponent)?,
            bases,
            is_counted: self.is_counted || is_rate,
            is_said: self.is_said,
            is_rate,
        })
    }

    /// The product of two.
    pub(crate) fn times(&self, other: &Unit) -> Option<Unit> {
        let mut bases = self.bases.clone();
        for (name, power) in &other.bases {
            match bases.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += power,
                None => bases.push((name.clone(), *power)),
            }
        }
        bases.retain(|&(_, power)| power != 0);
        bases.sort();
        Some(Unit {
            factor: self.factor.times(&other.factor)?,
            bases,
            is_counted: other.is_counted,
            is_said: self.is_said || other.is_said,
            is_rate: self.is_rate || other.is_rate,
        })
    }

    /// How many of the other unit one of this is, or `None` if they measure different things.
    pub(crate) fn factor_to(&self, other: &Unit) -> Option<Ratio> {
        if self.bases != other.bases { None } else { self.factor.over(&other.factor) }
    }
}

fn fraction(top: i64, bottom: i64) -> Ratio {
    Ratio::whole(top).over(&Ratio::whole(bottom)).unwrap_or_else(|| unreachable!("no factor has a zero"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors() {
        let unit = |name: &str| Unit::named(name);
        assert_eq!(unit("km").factor_to(&unit("meters")), Some(Ratio::whole(1000)));
        assert_eq!(unit("feet").factor_to(&unit("inches")), Some(Ratio::whole(12)));
        assert_eq!(
            unit("yard").power(2).unwrap().factor_to(&unit("foot").power(2).unwrap()),
            Some(Ratio::whole(9))
        );
        assert_eq!(unit("km").factor_to(&unit("kg")), None);
        assert_eq!(unit("apples").factor_to(&unit("apple")), Some(Ratio::whole(1)));
        assert_eq!(unit("apples").factor_to(&unit("oranges")), None);
        let speed = unit("mile").times(&unit("hour").power(-1).unwrap()).unwrap();
        assert_eq!(speed.factor_to(&unit("mph")), Some(Ratio::whole(1)));
        assert_eq!(unit("liter").factor_to(&unit("cm").power(3).unwrap()), Some(Ratio::whole(1000)));
    }
}
