//! Numbers for people: three significant digits, a unit, and groups of three digits.

/// What a number counts; decides how it is written and where an axis has its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Nanoseconds,
    /// Seconds.
    Seconds,
    /// Per second.
    PerSecond,
    /// Bytes, in powers of 1024.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Things.
    Count,
    /// CPUs, 1 for one core all the time.
    Cpus,
}

impl Unit {
    /// A measured value, as a table shows it.
    pub fn value(self, number: f64) -> String {
        if number < 0.0 {
            return format!("−{}", self.value(-number));
        }
        match self {
            Self::Nanoseconds => nanoseconds(number, &three_digits),
            Self::Seconds => nanoseconds(number * 1e9, &three_digits),
            Self::PerSecond => format!("{}/s", count(number)),
            Self::Bytes => bytes(number, &three_digits),
            Self::BytesPerSecond => format!("{}/s", bytes(number, &three_digits)),
            Self::Count => count(number),
            Self::Cpus if number < 0.1 => format!("{number:.4}"),
            Self::Cpus => format!("{number:.2}"),
        }
    }

    /// The value at an axis' mark: as short as it can be.
    pub fn mark(self, number: f64) -> String {
        match self {
            Self::Nanoseconds => nanoseconds(number, &shortest),
            Self::Seconds => format!("{} s", shortest(number)),
            Self::PerSecond => format!("{}/s", thousands(number)),
            Self::Bytes => bytes(number, &shortest),
            Self::BytesPerSecond => format!("{}/s", bytes(number, &shortest)),
            Self::Count => thousands(number),
            Self::Cpus => shortest(number),
        }
    }
}

/// How many times the first is the second.
pub fn ratio(number: f64, first: f64) -> String {
    let ratio = number / first;
    match ratio {
        _ if ratio >= 1_000.0 => format!("×{}", grouped(ratio)),
        _ if ratio >= 10.0 => format!("×{}", three_digits(ratio)),
        _ => format!("×{ratio:.2}"),
    }
}

/// Milliseconds since 1970 as a date and a time.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Days since 1970-01-01 in the Gregorian calendar; years begin in March, so that leap days end them.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days of 400 years
    let days = days + 719_468; // since 0000-03-01
    let day = days % ERA;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + days / ERA * 400 + carry, month, day_of_month)
}

fn nanoseconds(number: f64, digits: &dyn Fn(f64) -> String) -> String {
    match number {
        _ if number >= 1e9 => format!("{} s", digits(number / 1e9)),
        _ if number >= 1e6 => format!("{} ms", digits(number / 1e6)),
        _ if number >= 1e3 => format!("{} µs", digits(number / 1e3)),
        _ => format!("{} ns", shortest(number)),
    }
}

fn bytes(number: f64, digits: &dyn Fn(f64) -> String) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    // Small amounts, as those of a connection, are compared to the byte.
    if number < 10_240.0 && (number < 1_024.0 || number % 1_024.0 != 0.0) {
        return format!("{} B", if number < 1_000.0 { shortest(number) } else { grouped(number) });
    }
    let mut scaled = number / 1_024.0;
    let mut unit = 0;
    while scaled >= 1_024.0 && unit + 1 < UNITS.len() {
        scaled /= 1_024.0;
        unit += 1;
    }
    format!("{} {}", digits(scaled), UNITS[unit])
}

fn count(number: f64) -> String {
    if number < 100.0 { shortest(number) } else { grouped(number) }
}

fn thousands(number: f64) -> String {
    match number {
        _ if number >= 1e9 => format!("{}G", shortest(number / 1e9)),
        _ if number >= 1e6 => format!("{}M", shortest(number / 1e6)),
        _ if number >= 1e4 => format!("{}k", shortest(number / 1e3)),
        _ if number >= 1e3 => grouped(number),
        _ => shortest(number),
    }
}

fn three_digits(number: f64) -> String {
    match number {
        _ if number >= 100.0 => grouped(number),
        _ if number >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn shortest(number: f64) -> String {
    let text = three_digits(number);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_and_a_unit() {
        assert_eq!(Unit::Nanoseconds.value(912.0), "912 ns");
        assert_eq!(Unit::Nanoseconds.value(48_120.0), "48.1 µs");
        assert_eq!(Unit::Nanoseconds.value(2e6), "2.00 ms");
        assert_eq!(Unit::Seconds.value(0.25), "250 ms");
        assert_eq!(Unit::Seconds.value(3_600.0), "3,600 s");
        assert_eq!(Unit::PerSecond.value(1_234_567.4), "1,234,567/s");
        assert_eq!(Unit::PerSecond.value(0.5), "0.5/s");
        assert_eq!(Unit::Bytes.value(1_234.0), "1,234 B");
        assert_eq!(Unit::Bytes.value(128.25), "128 B");
        assert_eq!(Unit::Bytes.value(3.5 * 1_048_576.0), "3.50 MiB");
        assert_eq!(Unit::Bytes.value(-64.0), "−64 B");
        assert_eq!(Unit::Cpus.value(0.0123), "0.0123");
    }

    #[test]
    fn marks_are_short() {
        assert_eq!(Unit::Nanoseconds.mark(2e6), "2 ms");
        assert_eq!(Unit::Nanoseconds.mark(500.0), "500 ns");
        assert_eq!(Unit::PerSecond.mark(250_000.0), "250k/s");
        assert_eq!(Unit::Bytes.mark(1_024.0), "1 KiB");
        assert_eq!(Unit::Bytes.mark(1.25 * 1_073_741_824.0), "1.25 GiB");
        assert_eq!(Unit::Bytes.mark(0.0), "0 B");
        assert_eq!(Unit::Seconds.mark(0.5), "0.5 s");
    }

    #[test]
    fn ratios_are_of_the_first() {
        assert_eq!(ratio(150.0, 100.0), "×1.50");
        assert_eq!(ratio(1_234.0, 100.0), "×12.3");
        assert_eq!(ratio(5e6, 1.0), "×5,000,000");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(951_868_799_999), "2000-02-29 23:59:59 UTC");
        assert_eq!(utc(951_868_800_000), "2000-03-01 00:00:00 UTC");
        assert_eq!(utc(1_767_225_599_000), "2025-12-31 23:59:59 UTC");
    }
}
