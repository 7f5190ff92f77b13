//! Brings up the loopback of a network namespace, so that programs that talk to themselves over 127.0.0.1 work.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Through sysfs (`IFF_UP` in the interface's flags), mounted for a moment on `at`. Best effort: few programs need it.
pub(super) fn bring_up(at: &Path) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if mount(Some("sysfs"), at, Some("sysfs"), flags, None::<&str>).is_ok() {
        let _ = fs::write(at.join("class/net/lo/flags"), "0x1");
        let _ = umount2(at, MntFlags::MNT_DETACH);
    }
}
