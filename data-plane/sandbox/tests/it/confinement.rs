//! What user code can do to processes, to the network and to its own privileges.

use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::fcntl::{FcntlArg, FdFlag};
use sandbox::Network;

use crate::datum::{Datum, bubblewrap, isolated, marker};

#[test]
fn user_code_is_nobody_without_capabilities() {
    if !isolated() {
        return;
    }
    let status = Datum::new(&["cat", "/proc/self/status"]).printed();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    for name in ["Uid", "Gid"] {
        assert!(
            field(name).split_whitespace().all(|id| id != "0"),
            "{name} {}",
            field(name)
        );
    }
}

#[test]
fn privileges_cannot_be_regained() {
    if !isolated() {
        return;
    }
    let datum = Datum::shell(
        "mount -t tmpfs none /tmp && echo mounted
         umount /pfs/in && echo unmounted
         mount -o remount,bind,rw /pfs/in && echo remounted
         unshare -Ur true && echo user namespace
         unshare -m true && echo mount namespace
         mknod /tmp/null c 1 3 && echo device
         su -c true && echo root
         chroot / true && echo chroot
         true",
    );
    // Only new versions of `bwrap` can forbid an empty world of one's own, so none is asked to.
    let harmless = if bubblewrap() { "user namespace\n" } else { "" };
    assert_eq!(datum.printed().replace(harmless, ""), "");
}

#[test]
fn other_processes_are_invisible_and_the_first_is_out_of_reach() {
    if !isolated() {
        return;
    }
    let datum = Datum::bash(
        "for p in /proc/[0-9]*; do echo ${p#/proc/}; done
         for f in environ mem maps; do head -c 1 /proc/1/$f >/dev/null 2>&1 && echo read $f; done
         for f in fd/0 root cwd exe; do readlink /proc/1/$f && echo read $f; done
         ls /proc/1/root/ 2>/dev/null && echo read root
         (echo x > /proc/1/mem) 2>/dev/null && echo wrote
         kill -9 1; kill -15 1; echo alive",
    );
    let printed = datum.printed();
    // The supervisor and the shell. Under `bwrap` the first process is its own, which holds nothing of the host.
    let lines: Vec<&str> = printed.lines().collect();
    assert!(bubblewrap() || matches!(lines[..], ["1", _, "alive"]), "{printed}");
    assert!(
        !Datum::shell("cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true")
            .printed()
            .contains("CARGO")
    );
}

#[test]
fn no_descriptor_of_the_worker_is_inherited() {
    // A descriptor as a careless library leaves it: not closed on exec.
    let leaked = std::fs::File::open("/etc/hostname").expect("a file");
    nix::fcntl::fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty())).expect("keep it open over an exec");
    let printed = Datum::shell("ls /proc/self/fd | tr '\\n' ' '").printed();
    assert_eq!(printed, "0 1 2 3 ");
}

#[test]
fn the_hosts_network_is_out_of_reach_unless_opened() {
    if !isolated() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("its address").port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected");
    let mut datum = Datum::bash(&connect);
    let said = datum.run();
    assert_eq!(said.stdout, "");
    // The loopback is up, and it is another one.
    assert!(said.stderr.contains("Connection refused"), "{}", said.stderr);
    datum.run.network = Network::Host;
    assert_eq!(datum.printed(), "connected\n");
}

#[test]
fn abstract_sockets_are_out_of_reach() {
    if !isolated() {
        return;
    }
    let name = format!("howdah-{}", marker());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("a listener");
    let script = format!(
        "socket(my $s, 1, 1, 0) or die; print connect($s, pack('S a*', 1, \"\\0{name}\")) ? 'connected' : 'refused'"
    );
    let mut datum = Datum::new(&["perl", "-e", &script]);
    assert_eq!(datum.printed(), "refused");
    datum.run.network = Network::Host;
    assert_eq!(datum.printed(), "connected");
}

#[test]
fn logs_arrive_while_the_command_runs() {
    let datum = Datum::shell("echo first; while ! [ -e \"$FLAG\" ]; do sleep 0.01; done; echo second");
    let mut datum = datum;
    let (flag, seen_as) = (datum.run.scratch.join("flag"), "/tmp/flag".to_owned());
    let seen_as = if isolated() {
        seen_as
    } else {
        flag.display().to_string()
    };
    datum.run.env = vec![("FLAG".to_owned(), seen_as)];
    let mut running = datum.start();
    let mut stdout = running.stdout.take().expect("a pipe");
    let mut line = [0; 6];
    stdout.read_exact(&mut line).expect("the first line");
    assert_eq!(&line, b"first\n");
    std::fs::write(flag, "").expect("the flag");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "second\n");
}
