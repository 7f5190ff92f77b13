//! Secrets on their way to user code: as variables of its environment, as files that only it can read, and masked where
//! it prints them.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use sandbox::SecretFiles;

use super::protocol::SecretFor;

/// A shorter line of a value is not masked: it would be found everywhere.
const MASKED_LEAST: usize = 4;
/// What is shown instead.
const MASK: &str = "***";

/// The variables.
pub fn variables(secrets: &[SecretFor]) -> Vec<(String, String)> {
    let of = |secret: &SecretFor| match secret {
        SecretFor::Variable { name, values } => values.first().map(|(_, value)| (name.clone(), value.0.clone())),
        SecretFor::Files { .. } => None,
    };
    secrets.iter().filter_map(of).collect()
}

/// The files, which stand in the memory of the sandbox and nowhere on a disk.
pub fn files(secrets: &[SecretFor]) -> Vec<SecretFiles> {
    let of = |secret: &SecretFor| match secret {
        SecretFor::Files { path, values } => Some(SecretFiles {
            directory: path.clone(),
            files: values
                .iter()
                .map(|(key, value)| (key.clone(), value.0.clone()))
                .collect(),
        }),
        SecretFor::Variable { .. } => None,
    };
    secrets.iter().filter_map(of).collect()
}

/// What must not be seen in what user code prints: each line of each value.
#[derive(Default)]
pub struct Masks {
    /// None: there is nothing to look for.
    finder: Option<AhoCorasick>,
    /// Bytes of the longest.
    longest: usize,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masks")
    }
}

impl Masks {
    /// Those of a job.
    pub fn of(secrets: &[SecretFor]) -> Self {
        let lines: Vec<&str> = secrets
            .iter()
            .flat_map(SecretFor::values)
            .flat_map(|(_, value)| value.0.lines())
            .map(|line| line.trim_end_matches('\r'))
            .filter(|line| line.len() >= MASKED_LEAST)
            .collect();
        if lines.is_empty() {
            return Self::default();
        }
        // A value inside another one must not leave the rest of that.
        let finder = AhoCorasick::builder()
            // The default of few texts, a table of all steps, takes the square of a long one's length to make.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .build(&lines);
        if let Err(error) = &finder {
            tracing::error!("secrets can't be looked for, so nothing that is printed is kept: {error}");
        }
        Self {
            finder: finder.ok(),
            longest: lines.iter().map(|line| line.len()).max().unwrap_or(0),
        }
    }

    /// Takes from the beginning of `raw` what is decided, which is all of it at the end of a line, and adds it without the
    /// values to `shown`. What may be the beginning of a value stays: its rest may come.
    pub fn take(&self, raw: &mut Vec<u8>, shown: &mut Vec<u8>, is_end: bool) {
        let decided = match is_end {
            true => raw.len(),
            false => (raw.len() + 1).saturating_sub(self.longest.max(1)),
        };
        let mut taken = 0;
        if self.finder.is_none() && self.longest > 0 {
            // Nothing can be found in it, so nothing of it is shown.
            raw.clear();
            return;
        }
        for found in self.finder.iter().flat_map(|finder| finder.find_iter(raw.as_slice())) {
            if found.start() >= decided {
                break;
            }
            shown.extend_from_slice(&raw[taken..found.start()]);
            shown.extend_from_slice(MASK.as_bytes());
            taken = found.end();
        }
        if taken < decided {
            shown.extend_from_slice(&raw[taken..decided]);
            taken = decided;
        }
        raw.drain(..taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::protocol::Hidden;

    fn secrets(values: &[&str]) -> Vec<SecretFor> {
        let secret = |value: &&str| SecretFor::Variable {
            name: "A".to_owned(),
            values: vec![("k".to_owned(), Hidden((*value).to_owned()))],
        };
        values.iter().map(secret).collect()
    }

    /// What is shown of pieces of one line.
    fn shown(masks: &Masks, pieces: &[&[u8]]) -> String {
        let (mut raw, mut shown) = (Vec::new(), Vec::new());
        for piece in pieces {
            raw.extend_from_slice(piece);
            masks.take(&mut raw, &mut shown, false);
        }
        masks.take(&mut raw, &mut shown, true);
        assert!(raw.is_empty());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn every_line_of_a_value_is_masked_the_longest_first() {
        let secrets = secrets(&["hunter2", "hunter2-and-more", "first\r\nsecond", "no"]);
        let masks = Masks::of(&secrets);
        let shown = |line: &str| shown(&masks, &[line.as_bytes()]);
        assert_eq!(shown("a hunter2-and-more b"), "a *** b");
        assert_eq!(shown("hunter2hunter2"), "******");
        assert_eq!(shown("first, second, no"), "***, ***, no");
        assert!(!format!("{secrets:?} {masks:?}").contains("hunter2"));
    }

    #[test]
    fn a_value_is_masked_wherever_it_is_cut() {
        let masks = Masks::of(&secrets(&["hunter2", "hunter2-and-more"]));
        for line in ["a hunter2-and-more b", "hunter2-and", "xhunter2hunter2-and-morehunter"] {
            let whole = shown(&masks, &[line.as_bytes()]);
            let each: Vec<&[u8]> = line.as_bytes().chunks(1).collect();
            assert_eq!(shown(&masks, &each), whole);
            for at in 0..line.len() {
                assert_eq!(
                    shown(&masks, &[&line.as_bytes()[..at], &line.as_bytes()[at..]]),
                    whole,
                    "{at}"
                );
            }
        }
        assert_eq!(shown(&Masks::default(), &[b"as it", b" is"]), "as it is");
    }
}
