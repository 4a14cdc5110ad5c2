//! Values of flags as people write them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytesize::{ByteSize, MIB};
use clap::builder::TypedValueParser;
use jiff::SignedDuration;

/// A year. Longer times mean that there is no limit, and the clock could not hold all of them.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A number of at least 1.
pub(crate) fn counted() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|count| count as usize)
}

/// An address to listen at.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| "expected an address of this machine, as 127.0.0.1 or 0.0.0.0, or localhost".into())
}

/// Seconds, or a time with a unit.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let expected = || "expected seconds, or a time with a unit, as 90s, 10m or 1h".to_owned();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let time: SignedDuration = text.parse().map_err(|_| expected())?;
    Duration::try_from(time).map(|time| time.min(LONGEST)).map_err(|_| expected())
}

/// Bytes, from MiB or a size with a unit.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let mib = text.parse::<u64>().ok().and_then(|mib| mib.checked_mul(MIB));
    let bytes = mib.or_else(|| if text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { with_unit(text) });
    match bytes.map(usize::try_from) {
        Some(Ok(bytes @ 1..)) => Ok(bytes),
        _ => Err("expected a number of MiB above 0, or a size with a unit, as 64MiB or 1GiB".into()),
    }
}

fn with_unit(text: &str) -> Option<u64> {
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        for (text, seconds) in [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("1h", 3600), ("1h 30m", 5400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for endless in ["18446744073709551615", "99999999999999999999999", "100000h"] {
            assert_eq!(time(endless), Ok(LONGEST), "{endless}");
        }
        for wrong in ["", "-1", "-1s", "1 fortnight", "NaN", "1e3"] {
            assert!(time(wrong).unwrap_err().contains("expected seconds"), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_mib_or_have_a_unit() {
        for (text, bytes) in [("64", 64 << 20), ("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("500kB", 500_000), ("7B", 7)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "0", "0B", "-1", "18446744073709551615", "99999999999999999999", "many", "5 apples"] {
            assert!(size(wrong).unwrap_err().contains("expected a number of MiB"), "{wrong}");
        }
    }

    #[test]
    fn the_machine_itself_has_a_name() {
        assert_eq!(address("localhost"), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(address("::1"), Ok("::1".parse().unwrap()));
        assert!(address("example.org").unwrap_err().contains("0.0.0.0"));
    }
}
