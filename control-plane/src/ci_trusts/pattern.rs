//! Patterns for claims: `*` stands for any characters but `/` and `@`, `**` for any but `@`. Neither takes an `@`, because names of
//! refs may have one: `ci.yml@refs/heads/x@refs/heads/main` is a workflow of the branch `x@refs/heads/main`, and must not pass for one
//! of `main`.

/// Bytes of a pattern at most.
pub const LENGTH_MAX: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// One `*`.
    Segment,
    /// `**`.
    All,
}

fn parts(pattern: &str) -> Vec<Part> {
    let bytes = pattern.as_bytes();
    let (mut parts, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let part = match (byte, bytes.get(at + 1)) {
            (b'*', Some(b'*')) => {
                at += 1;
                Part::All
            }
            (b'*', _) => Part::Segment,
            (byte, _) => Part::Byte(*byte),
        };
        parts.push(part);
        at += 1;
    }
    parts
}

/// Whether the whole text is what the pattern says. Takes time in proportion to both lengths multiplied, whatever they are.
pub fn fits(pattern: &str, text: &str) -> bool {
    let parts = parts(pattern);
    // reached[i]: the text so far is what the first i parts say.
    let mut reached = vec![false; parts.len() + 1];
    reached[0] = true;
    skip_empty(&parts, &mut reached);
    for byte in text.bytes() {
        let mut next = vec![false; parts.len() + 1];
        for (at, part) in parts.iter().enumerate() {
            match part {
                Part::Byte(wanted) => next[at + 1] |= reached[at] && *wanted == byte,
                Part::Segment => next[at + 1] |= reached[at + 1] && byte != b'/' && byte != b'@',
                Part::All => next[at + 1] |= reached[at + 1] && byte != b'@',
            }
        }
        skip_empty(&parts, &mut next);
        reached = next;
    }
    reached[parts.len()]
}

/// A star may stand for nothing.
fn skip_empty(parts: &[Part], reached: &mut [bool]) {
    for (at, part) in parts.iter().enumerate() {
        if !matches!(part, Part::Byte(_)) {
            reached[at + 1] |= reached[at];
        }
    }
}

/// Whether a pattern begins with something that tells one from others.
pub fn is_specific(pattern: &str) -> bool {
    pattern.find('*').unwrap_or(pattern.len()) >= 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_part_of_a_name() {
        let workflow = "acme/tiles/.github/workflows/*@refs/heads/main";
        for (pattern, text, expected) in [
            ("refs/heads/main", "refs/heads/main", true),
            ("refs/heads/main", "refs/heads/main2", false),
            ("refs/heads/*", "refs/heads/a", true),
            ("refs/heads/*", "refs/heads/a/b", false),
            ("refs/heads/**", "refs/heads/a/b", true),
            ("refs/tags/v*.0", "refs/tags/v1.0", true),
            ("refs/tags/v*.0", "refs/tags/v1.1", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**", "a@b", false),
            ("a***b", "a/b", true),
            (workflow, "acme/tiles/.github/workflows/ci.yml@refs/heads/main", true),
            (
                workflow,
                "acme/tiles/.github/workflows/ci.yml@refs/heads/x@refs/heads/main",
                false,
            ),
            (
                "acme/**@refs/heads/main",
                "acme/x.yml@refs/heads/x@refs/heads/main",
                false,
            ),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        assert!(!fits(&"*a".repeat(256), &"a".repeat(1024).replace("aa", "ab")));
    }
}
