//! Durations (`90s`, `1h30m`) and amounts (`500m`, `1.5Gi`) as people write them.

use std::time::Duration;

/// Reads a duration: parts of a number and a unit (`ms`, `s`, `m`, `h`, `d`), or a plain number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write `90s`, `10m` or `1h30m`");
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| wrong());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(wrong)?;
        let unit = &after[..after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len())];
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &after[unit.len()..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// Writes a duration so that `duration` reads it again.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// Reads a number of processors in thousandths: `2`, `0.5`, `500m`.
pub(super) fn cpu_millis(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a number of processors: write `2`, `0.5` or `500m`");
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let millis = match unit {
        "" => number * 1000.0,
        "m" => number,
        _ => return Err(wrong()),
    };
    whole(millis).filter(|n| *n > 0).ok_or_else(wrong)
}

/// Reads an amount of bytes: `64M`, `1.5Gi`, `1024`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not an amount of bytes: write `512Mi`, `2G` or a number");
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let unit = unit.trim();
    let unit = unit.strip_suffix('B').unwrap_or(unit);
    let factor: f64 = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return Err(wrong()),
    };
    whole(number * factor).filter(|n| *n > 0).ok_or_else(wrong)
}

fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, &text[end..]))
}

fn whole(number: f64) -> Option<u64> {
    // Above 2^53 a float is no longer exact, and no machine has so much of anything.
    (number.is_finite() && (0.0..9e15).contains(&number)).then_some(number.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_amounts_are_read_as_people_write_them() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1500ms").map(duration_text).as_deref(), Ok("1500ms"));
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("250m"), Ok(250));
        assert_eq!(bytes("1.5Gi"), Ok(1_610_612_736));
        assert_eq!(bytes("64MB"), Ok(64_000_000));
        for bad in ["", "1x", "-1s", "s", "1h-2m", "9e99", "inf"] {
            assert!(duration(bad).is_err(), "{bad}");
            assert!(bytes(bad).is_err(), "{bad}");
            assert!(cpu_millis(bad).is_err(), "{bad}");
        }
    }
}
