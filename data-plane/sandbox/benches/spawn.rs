//! Start and end of `/bin/true`: a plain exec, our sandbox, and `bwrap` where it is installed. Ratios in one run.
//! `cargo bench --bench spawn -- 300` sets the number of rounds.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbox::{Exit, Image, Isolation, Launcher, Network, Run, discard, examine, prepare_rootfs, spawn};

const BINARY: &str = env!("CARGO_BIN_EXE_howdah-sandbox");

fn main() {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(200);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = Run {
        command: vec!["/bin/true".to_owned()],
        pfs: directory.path().join("pfs"),
        inputs: vec!["in".to_owned()],
        scratch: directory.path().join("tmp"),
        network: Network::None,
        ..Run::default()
    };
    for path in [run.pfs.join("in"), run.pfs.join("out"), run.scratch.clone()] {
        fs::create_dir_all(path).expect("directories for a datum");
    }
    let examination = examine(Path::new(BINARY));
    println!("isolation: {}", examination.chosen.as_str());
    let plain = measure("plain exec", rounds, None, || {
        assert!(
            Command::new("/bin/true")
                .stdin(Stdio::null())
                .status()
                .expect("start")
                .success()
        );
    });
    measure("howdah-sandbox", rounds, Some(plain), || once(examination.chosen, &run));
    let launcher = Launcher::new(BINARY.into(), examination.chosen);
    measure("howdah-sandbox, kept ready", rounds, Some(plain), || {
        assert_eq!(launcher.spawn(&run).expect("start").wait().exit, Exit::Code(0));
    });
    if examination.chosen == Isolation::Root {
        variants(rounds, plain, &run);
    }
    in_image(rounds, plain, (examination.chosen, &run), directory.path());
    measure("howdah-sandbox, no namespaces", rounds, Some(plain), || {
        once(Isolation::Plain, &run);
    });
    if Command::new("bwrap")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        measure("bwrap --unshare-all", rounds, Some(plain), || {
            let arguments = [
                "--unshare-all",
                "--ro-bind",
                "/",
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "/bin/true",
            ];
            assert!(Command::new("bwrap").args(arguments).status().expect("start").success());
        });
    }
}

/// What a memory cgroup and a network namespace cost.
fn variants(rounds: usize, base: Duration, run: &Run) {
    let limited = Run {
        limits: sandbox::Limits {
            memory: Some(256 << 20),
            ..Default::default()
        },
        ..run.clone()
    };
    measure("howdah-sandbox, memory limit", rounds, Some(base), || {
        once(Isolation::Root, &limited);
    });
    let open = Run {
        network: Network::Host,
        ..run.clone()
    };
    measure("howdah-sandbox, host network", rounds, Some(base), || {
        once(Isolation::Root, &open);
    });
}

/// In an image of one program, where there is one that needs no libraries.
fn in_image(rounds: usize, base: Duration, (isolation, run): (Isolation, &Run), directory: &Path) {
    let programs = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let namespaces = matches!(isolation, Isolation::Root | Isolation::UserNamespace);
    let Some(program) = programs.into_iter().find(|path| namespaces && path.exists()) else {
        return;
    };
    let (rootfs, writes) = (directory.join("rootfs"), directory.join("writes"));
    fs::create_dir_all(rootfs.join("bin")).expect("an image");
    fs::copy(program, rootfs.join("bin/true")).expect("a program");
    prepare_rootfs(&rootfs, None).expect("prepare the image");
    let run = Run {
        image: Some(Image {
            rootfs,
            writes: writes.clone(),
            user: (0, 0),
        }),
        ..run.clone()
    };
    measure("howdah-sandbox, in an image", rounds, Some(base), || {
        fs::create_dir(&writes).expect("a directory");
        once(isolation, &run);
        discard(&writes).expect("discard what was written");
    });
}

fn once(isolation: Isolation, run: &Run) {
    let outcome = spawn(Path::new(BINARY), isolation, run).expect("start").wait();
    assert_eq!(outcome.exit, Exit::Code(0));
}

/// Prints minimum and median, returns the median.
fn measure(name: &str, rounds: usize, base: Option<Duration>, mut body: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds.max(1))
        .map(|_| {
            let started = Instant::now();
            body();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let median = times[times.len() / 2];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let ratio = base.map_or(String::new(), |base| {
        format!("  {:5.1} x", median.as_secs_f64() / base.as_secs_f64())
    });
    println!(
        "{name:32} min {:6.2} ms  median {:6.2} ms{ratio}",
        milliseconds(times[0]),
        milliseconds(median)
    );
    median
}
