//! What pipelines with an image need of this machine: namespaces, an overlay, room, and registries that may be spoken to.

use std::fs;
use std::path::Path;

use super::{Finding, Verdict};
use crate::output::size;

const CHECK: &str = "images";
/// An overlay can be laid in a user namespace from this version of Linux on.
const OVERLAY_AS_USER: (u32, u32) = (5, 11);
/// That much of the disk stays free of images, and as much again is the least that one is fetched into.
const LEAST_SPACE: u64 = 2 << 30;
/// Images that nobody uses now are kept up to that, or a tenth of the disk.
const KEPT: u64 = 10 << 30;

/// What it is judged by.
pub(super) struct Machine {
    /// What the sandbox isolates with.
    pub isolation: String,
    /// Major and minor of Linux.
    pub linux: Option<(u32, u32)>,
    /// Whether the kernel knows overlays.
    pub has_overlay: bool,
    /// Bytes that are free, and all, where images are kept.
    pub disk: Option<(u64, u64)>,
    /// Addresses beside public ones that may be spoken to.
    pub allowed: Vec<String>,
}

impl Machine {
    /// This one.
    pub(super) fn this(isolation: &str, home: &Path) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let existing = home.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let disk = nix::sys::statvfs::statvfs(existing).ok().map(|found| {
            let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
            (bytes(found.blocks_available()), bytes(found.blocks()))
        });
        let allowed = std::env::var("HOWDAH_IMPORT_ALLOW").unwrap_or_default();
        Self {
            isolation: isolation.to_owned(),
            linux: version(&release),
            // A module that is loaded when it is first used stands in no list yet.
            has_overlay: fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\toverlay"))
                || has_module(&release),
            disk,
            allowed: allowed
                .split([',', ' '])
                .filter(|address| !address.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}

fn has_module(release: &str) -> bool {
    let place = Path::new("/lib/modules")
        .join(release.trim())
        .join("kernel/fs/overlayfs");
    place.is_dir()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.trim().split(['.', '-']).map(str::parse::<u32>);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Whether pipelines with an image run here, and what is worse than it could be.
pub(super) fn images(machine: &Machine) -> Finding {
    let warning = |found: String, remedy: &str| Finding::new(CHECK, Verdict::Warning, found, remedy);
    if !matches!(machine.isolation.as_str(), "namespaces" | "user-namespaces") {
        return warning(
            format!(
                "`transform.image` needs namespaces, and the isolation is `{}`",
                machine.isolation
            ),
            "allow unprivileged user namespaces, or run the service as root; pipelines without an image run as they are",
        );
    }
    let free = machine.disk.map_or(0, |(free, _)| free);
    if free < LEAST_SPACE {
        return warning(
            format!("{} free are too little for an image", size(free)),
            "free some space",
        );
    }
    let old = machine.isolation == "user-namespaces" && machine.linux.is_some_and(|linux| linux < OVERLAY_AS_USER);
    if old || !machine.has_overlay {
        return warning(
            "code cannot write into its image but below /tmp: this kernel lays no overlay there".to_owned(),
            "Linux 5.11 or newer with overlayfs, or the service run as root",
        );
    }
    let kept = KEPT.min(machine.disk.map_or(0, |(_, all)| all) / 10);
    let beside = match machine.allowed.is_empty() {
        true => String::new(),
        false => format!(" and at {}", machine.allowed.join(", ")),
    };
    let found = format!(
        "{}, overlay; up to {} are kept; registries at public addresses{beside}",
        machine.isolation,
        size(kept)
    );
    let remedy = match machine.allowed.is_empty() {
        true => "a registry at another address needs HOWDAH_IMPORT_ALLOW when the service starts",
        false => "",
    };
    Finding::new(CHECK, Verdict::Good, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Machine);

    fn machine() -> Machine {
        Machine {
            isolation: "user-namespaces".to_owned(),
            linux: Some((6, 1)),
            has_overlay: true,
            disk: Some((50 << 30, 200 << 30)),
            allowed: vec!["10.0.0.0/8".to_owned()],
        }
    }

    #[test]
    fn what_images_lack_is_said_with_what_to_do() {
        let good = images(&machine());
        assert_eq!(good.verdict, Verdict::Good);
        assert!(
            good.found.contains("10.0.0.0/8") && good.found.contains("10.00 GiB"),
            "{}",
            good.found
        );
        let worse: [(Change, &str); 4] = [
            (|m| m.isolation = "bubblewrap".to_owned(), "needs namespaces"),
            (|m| m.disk = Some((1 << 30, 200 << 30)), "too little"),
            (|m| m.linux = Some((5, 10)), "lays no overlay"),
            (|m| m.has_overlay = false, "lays no overlay"),
        ];
        for (change, said) in worse {
            let mut machine = machine();
            change(&mut machine);
            let found = images(&machine);
            assert!(
                found.verdict == Verdict::Warning && found.found.contains(said),
                "{}",
                found.found
            );
            assert!(!found.remedy.is_empty());
        }
    }

    #[test]
    fn the_version_of_linux_is_read() {
        assert_eq!(version("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(version("5.15.153.1-microsoft"), Some((5, 15)));
        assert_eq!(version("none"), None);
    }
}
