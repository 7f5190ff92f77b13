//! Secrets on their way to user code: as variables of its environment, as files that only it can read, and masked where
//! it prints them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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

/// Writes the files below the datum's directory; answers what is to be shown where.
///
/// # Errors
/// When the disk refuses.
pub fn lay_out(secrets: &[SecretFor], root: &Path, owner: Option<u32>) -> io::Result<Vec<(PathBuf, String)>> {
    let mut shown = Vec::new();
    for (number, secret) in secrets.iter().enumerate() {
        let SecretFor::Files { path, values } = secret else {
            continue;
        };
        let directory = root.join("secrets").join(number.to_string());
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        for (key, value) in values {
            let file = directory.join(key);
            let mut opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(&file)?;
            opened.write_all(value.0.as_bytes())?;
            if let Some(owner) = owner {
                std::os::unix::fs::chown(&file, Some(owner), Some(owner))?;
            }
        }
        shown.push((directory, path.clone()));
    }
    Ok(shown)
}

/// What must not be seen in what user code prints: each line of each value.
pub fn masks(secrets: &[SecretFor]) -> Vec<String> {
    let mut masks: Vec<String> = secrets
        .iter()
        .flat_map(SecretFor::values)
        .flat_map(|(_, value)| value.0.lines())
        .map(|line| line.trim_end_matches('\r').to_owned())
        .filter(|line| line.len() >= MASKED_LEAST)
        .collect();
    // A value inside another one must not leave the rest of that.
    masks.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    masks.dedup();
    masks
}

/// A line without them.
pub fn masked(mut line: String, masks: &[String]) -> String {
    for mask in masks {
        if line.contains(mask) {
            line = line.replace(mask, MASK);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::protocol::Hidden;

    #[test]
    fn every_line_of_a_value_is_masked_the_longest_first() {
        let secret = |value: &str| SecretFor::Variable {
            name: "A".to_owned(),
            values: vec![("k".to_owned(), Hidden(value.to_owned()))],
        };
        let secrets = [
            secret("hunter2"),
            secret("hunter2-and-more"),
            secret("first\r\nsecond"),
            secret("no"),
        ];
        let masks = masks(&secrets);
        let shown = |line: &str| masked(line.to_owned(), &masks);
        assert_eq!(shown("a hunter2-and-more b"), "a *** b");
        assert_eq!(shown("hunter2hunter2"), "******");
        assert_eq!(shown("first, second, no"), "***, ***, no");
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }
}
