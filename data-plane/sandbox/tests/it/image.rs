//! Images. The whole suite runs once more in a small image that is made of programs of this machine, and here is what holds
//! of images alone; both where there are namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::{Exit, Image, Isolation, SpawnError, overlay_trial, prepare_rootfs, spawn};

use crate::datum::{BINARY_VARIABLE, Datum, IMAGE_VARIABLE, OWNER, binary, image, isolation};

const PROGRAMS: [&str; 33] = [
    "sh", "bash", "cat", "chmod", "chroot", "cp", "cut", "env", "false", "grep", "head", "id", "ln", "ls", "mkdir",
    "mknod", "mount", "perl", "pwd", "readlink", "rm", "rmdir", "setsid", "sleep", "sort", "su", "tail", "touch", "tr",
    "true", "umount", "unshare", "wc",
];

#[test]
fn everything_holds_in_an_image() {
    if image().is_some() || !matches!(isolation(), Isolation::Root | Isolation::UserNamespace) {
        println!("these are the tests in an image, or there are no namespaces: nothing to start");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let rootfs = make(directory.path());
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--skip",
            "ordinary_user",
            "--skip",
            "everything_holds",
            "--skip",
            "fallback",
        ])
        .env(BINARY_VARIABLE, binary())
        .env(IMAGE_VARIABLE, &rootfs)
        .output()
        .expect("run the tests");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{said}");
}

/// An image of the programs that the tests need, with the libraries that they are linked to.
fn make(directory: &Path) -> PathBuf {
    let rootfs = directory.join("rootfs");
    for name in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "home/app", "var"] {
        fs::create_dir_all(rootfs.join(name)).expect("a directory of the image");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), rootfs.join(name)).expect("a link of the image");
    }
    fs::write(rootfs.join("etc/hostname"), "image\n").expect("a name");
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .expect("users");
    fs::create_dir(rootfs.join("var/tmp")).expect("a directory of the image");
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|place| Path::new(place).join(program));
        let source = found.iter().find(|path| path.exists()).expect(program);
        fs::copy(source, rootfs.join("usr/bin").join(program)).expect("a program");
        let linked = Command::new("ldd").arg(source).output().expect("ldd");
        let words = String::from_utf8_lossy(&linked.stdout).into_owned();
        libraries.extend(
            words
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
    }
    for library in libraries {
        let target = rootfs.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().expect("its directory")).expect("a directory of libraries");
        fs::copy(&library, &target).expect("a library");
    }
    give(&rootfs);
    prepare_rootfs(&rootfs, nix::unistd::geteuid().is_root().then_some(OWNER)).expect("prepare the image");
    rootfs
}

/// As a worker does: everything belongs to the id that code runs as, and nobody else must get through.
fn give(path: &Path) {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, open).expect("open a directory");
    let mut pending = vec![path.to_path_buf()];
    while let Some(path) = pending.pop() {
        if nix::unistd::geteuid().is_root() {
            lchown(&path, Some(OWNER.0), Some(OWNER.1)).expect("give a file");
        }
        if path.is_dir() && !path.is_symlink() {
            pending.extend(
                fs::read_dir(&path)
                    .expect("list")
                    .map(|entry| entry.expect("an entry").path()),
            );
        }
    }
}

/// A datum in the image that is tested, under that user.
fn datum_in_image(script: &str, user: (u32, u32)) -> Option<Datum> {
    image()?;
    let mut datum = Datum::shell(script);
    if let Some(image) = &mut datum.run.image {
        image.user = user;
    }
    Some(datum)
}

/// Whether the kernel lays overlays for whoever runs the tests.
fn overlaid() -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let laid = overlay_trial(&binary(), isolation(), directory.path());
    println!("overlays: {laid:?}");
    assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 0);
    laid.is_ok()
}

#[test]
fn only_the_image_is_there_and_what_the_sandbox_mounts() {
    let Some(datum) = datum_in_image(
        "ls -A / | tr '\\n' ' '; ls -A /dev | tr '\\n' ' '; cat /etc/hostname",
        (0, 0),
    ) else {
        return;
    };
    assert_eq!(
        datum.printed(),
        "bin dev etc home lib lib64 pfs proc sbin sys tmp usr var \
         fd full null random shm stderr stdin stdout urandom zero image\n"
    );
}

#[test]
fn the_user_of_an_image_is_who_the_code_sees_itself_as_and_owns_the_image() {
    for (user, name) in [((0, 0), "root"), ((1000, 1000), "app"), ((33, 34), "")] {
        let Some(datum) = datum_in_image(
            "id -u; id -g; ls -ld /usr | cut -d' ' -f3; ls -ld /pfs/out | cut -d' ' -f3",
            user,
        ) else {
            return;
        };
        let owner = if name.is_empty() {
            user.0.to_string()
        } else {
            name.to_owned()
        };
        assert_eq!(datum.printed(), format!("{}\n{}\n{owner}\n{owner}\n", user.0, user.1));
    }
}

#[test]
fn who_is_root_in_an_image_has_no_capability_and_can_get_none() {
    let script = "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '
        mount -t tmpfs none /tmp && echo mounted
        umount /pfs/in && echo unmounted
        unshare -Ur true && echo user namespace
        unshare -m true && echo mount namespace
        mknod /tmp/null c 1 3 && echo device
        chroot / true && echo chroot
        (echo x > /pfs/in/a) && echo wrote input
        (echo x > /pfs/x) && echo wrote pfs
        (echo x > /dev/x) && echo wrote dev
        true";
    let Some(datum) = datum_in_image(script, (0, 0)) else {
        return;
    };
    let none = "0000000000000000";
    assert_eq!(
        datum.printed(),
        format!("CapInh:{none} CapPrm:{none} CapEff:{none} CapBnd:{none} CapAmb:{none} ")
    );
}

#[test]
fn what_code_writes_into_an_image_is_its_own_and_gone_with_it() {
    let script =
        "cat /usr/new /etc/hostname; echo mine > /etc/hostname; echo new > /usr/new; mkdir -p /root/.cache /opt/x
        rm -r /home/app; ls /home; cat /usr/new /etc/hostname; ls -d /opt/x /root/.cache";
    let Some(datum) = datum_in_image(script, (0, 0)) else {
        return;
    };
    let rootfs = image().expect("an image");
    let second = datum_in_image(script, (0, 0)).expect("an image");
    for datum in [&datum, &second] {
        let said = datum.run();
        if overlaid() {
            assert_eq!(
                said.stdout, "image\nnew\nmine\n/opt/x\n/root/.cache\n",
                "{}",
                said.stderr
            );
        } else {
            assert!(said.stderr.contains("Read-only file system"), "{}", said.stderr);
        }
    }
    assert!(!rootfs.join("usr/new").exists() && rootfs.join("home/app").exists());
    // The second command of a datum sees what the first one left.
    let again = Datum {
        run: sandbox::Run {
            command: ["cat", "/usr/new"].map(str::to_owned).to_vec(),
            ..datum.run
        },
        ..datum
    };
    if overlaid() {
        assert_eq!(again.printed(), "new\n");
    }
    let writes = again.run.image.expect("an image").writes;
    sandbox::discard(&writes).expect("discard what was written");
    assert!(!writes.exists());
}

#[test]
fn a_working_directory_that_the_image_lacks_is_made() {
    let Some(mut datum) = datum_in_image("pwd; echo x > y", (0, 0)) else {
        return;
    };
    datum.run.working_dir = Some("/work/deep".to_owned());
    let said = datum.run();
    if overlaid() {
        assert_eq!(
            (said.outcome.exit, said.stdout.as_str()),
            (Exit::Code(0), "/work/deep\n"),
            "{}",
            said.stderr
        );
    } else {
        assert_eq!(said.outcome.exit, Exit::Code(126));
    }
}

#[test]
fn links_of_an_image_lead_nowhere_but_into_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("resolv.conf"), "kept").expect("a file");
    let rootfs = directory.path().join("rootfs");
    fs::create_dir(&rootfs).expect("an image");
    for name in ["dev", "pfs", "proc", "tmp", "sys", "etc"] {
        symlink(&outside, rootfs.join(name)).expect("a hostile link");
    }
    prepare_rootfs(&rootfs, None).expect("prepare");
    for name in ["dev", "pfs", "proc", "tmp", "sys", "etc"] {
        let found = fs::symlink_metadata(rootfs.join(name)).expect("the name");
        assert!(found.is_dir(), "{name}");
    }
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 1);
    assert_eq!(
        fs::read_to_string(outside.join("resolv.conf")).expect("the file"),
        "kept"
    );
    // One that was changed afterwards is refused before anything is mounted.
    if matches!(isolation(), Isolation::Root | Isolation::UserNamespace) {
        fs::remove_dir(rootfs.join("tmp")).expect("remove");
        symlink(&outside, rootfs.join("tmp")).expect("a hostile link");
        let mut datum = Datum::new(&["true"]);
        let writes = datum.directory.path().join("writes");
        datum.run.image = Some(Image {
            rootfs,
            writes,
            user: (0, 0),
        });
        let exit = datum.run().outcome.exit;
        assert!(
            matches!(&exit, Exit::SandboxFailed(reason) if reason.contains("`/tmp` is no directory")),
            "{exit:?}"
        );
    }
}

#[test]
fn an_image_needs_namespaces() {
    let mut datum = Datum::new(&["true"]);
    let writes = datum.directory.path().join("writes");
    datum.run.image = Some(Image {
        rootfs: writes.clone(),
        writes,
        user: (0, 0),
    });
    for isolation in [Isolation::Plain, Isolation::Bubblewrap] {
        match spawn(&binary(), isolation, &datum.run) {
            Err(SpawnError::BadRun(message)) => assert!(message.contains("an image needs namespaces"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_shown_elsewhere_is_there_but_never_through_a_link_of_an_image() {
    let Some(mut datum) = datum_in_image("cat /secret/deep/a; (echo x > /secret/deep/a) && echo wrote", (0, 0)) else {
        return;
    };
    let source = datum.directory.path().join("shown");
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("a"), "hidden").expect("a file");
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).expect("open it");
    if overlaid() {
        datum.run.shown = vec![(source.clone(), "/secret/deep".to_owned())];
        assert_eq!(datum.run().stdout, "hidden");
    }
    for (path, why) in [
        ("/bin/x", "is a link in the image"),
        ("/bin", "is a link in the image"),
        ("/etc/hosts", "is a file in the image"),
    ] {
        let mut datum = datum_in_image("true", (0, 0)).expect("an image");
        datum.run.shown = vec![(source.clone(), path.to_owned())];
        let exit = datum.run().outcome.exit;
        assert!(
            matches!(&exit, Exit::Refused(reason) if reason.contains(why)),
            "{exit:?}"
        );
    }
}
