//! Who the command is: an id without any capability, in a user namespace where it cannot get one by making another.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::lchown;

use caps::CapSet;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};

use super::{Setup, Step};
use crate::wire::Spec;

/// The id an ordinary user's code sees itself as; outside it stays that user.
const INSIDE_ID: u32 = 1000;

/// Maps one (inside, outside) user id and group id of the user namespace this process just made.
pub(super) fn map_ids(uid: (u32, u32), gid: (u32, u32)) -> Setup<()> {
    // Without this the kernel lets nobody unprivileged map a group.
    fs::write("/proc/self/setgroups", "deny").step(|| "give up changing groups".to_owned())?;
    fs::write("/proc/self/uid_map", format!("{} {} 1", uid.0, uid.1)).step(|| "map the user id".to_owned())?;
    fs::write("/proc/self/gid_map", format!("{} {} 1", gid.0, gid.1)).step(|| "map the group id".to_owned())
}

/// As root: hands the writable directories and the log pipes to the id the command runs as.
pub(super) fn give_directories(spec: &Spec) -> Setup<()> {
    let (uid, gid) = spec.uid_gid;
    let upper = spec
        .image
        .as_ref()
        .map(|image| image.writes.join(super::image_root::UPPER));
    for path in [&spec.pfs.join("out"), &spec.scratch].into_iter().chain(&upper) {
        lchown(path, Some(uid), Some(gid)).step(|| format!("give `{}` to user {uid}", path.display()))?;
    }
    // Otherwise a command that opens `/dev/stdout` is refused: the pipe belongs to root. Not a pipe: leave it.
    for descriptor in [io::stdout().as_fd(), io::stderr().as_fd()] {
        let _ = fchown(descriptor, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
    Ok(())
}

/// From root to an ordinary id without supplementary groups, for good.
pub(super) fn drop_to((uid, gid): (u32, u32)) -> Setup<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).step(|| "give up supplementary groups".to_owned())?;
    setresgid(gid, gid, gid).step(|| format!("change to group {gid}"))?;
    setresuid(uid, uid, uid).step(|| format!("change to user {uid}"))
}

/// Root's way: becomes the id, and enters a user namespace of its own if there may be one. Says whether it did.
/// Inside of that it is `inside`.
pub(super) fn become_user((uid, gid): (u32, u32), inside: (u32, u32)) -> Setup<bool> {
    drop_to((uid, gid))?;
    // A change of id hides `/proc/self` from its own process, which has maps to write there.
    prctl::set_dumpable(true).step(|| "reach /proc/self".to_owned())?;
    let nested = unshare(CloneFlags::CLONE_NEWUSER).is_ok();
    if nested {
        map_ids((inside.0, uid), (inside.1, gid))?;
        forbid_namespaces()?;
        forbid_capabilities()?;
    }
    prctl::set_dumpable(false).step(|| "hide the supervisor's memory".to_owned())?;
    Ok(nested)
}

/// An ordinary user's way: from root of the user namespace to an unprivileged id in another one below it.
pub(super) fn become_nobody_in_particular(inside: Option<(u32, u32)>) -> Setup<bool> {
    let (uid, gid) = inside.unwrap_or((INSIDE_ID, INSIDE_ID));
    unshare(CloneFlags::CLONE_NEWUSER).step(|| "make the inner user namespace".to_owned())?;
    map_ids((uid, 0), (gid, 0))?;
    forbid_namespaces()?;
    forbid_capabilities()?;
    prctl::set_dumpable(false).step(|| "hide the supervisor's memory".to_owned())?;
    Ok(true)
}

/// No further user namespaces below this one, so no way to capabilities, not even over an empty world.
fn forbid_namespaces() -> Setup<()> {
    fs::write("/proc/sys/user/max_user_namespaces", "0").step(|| "forbid user namespaces".to_owned())
}

/// No capability survives the start of the command, not even where an image calls its user root.
fn forbid_capabilities() -> Setup<()> {
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability).step(|| format!("give up {capability}"))?;
    }
    Ok(())
}
