//! A port of a run: reached from outside, though the run has a network of its own.

use std::io::{Read, Write};
use std::time::Duration;

use sandbox::{Isolation, Network, Port, SpawnError, connect, spawn};

use crate::datum::{Datum, binary, eventually, isolation};

/// Without modules, which are not where this runs in an image.
const ECHO: &str = "
socket(my $listener, 2, 1, 0) or die;
bind($listener, pack('S n C4 x8', 2, 8000, 127, 0, 0, 1)) or die;
listen($listener, 5) or die;
while (accept(my $connection, $listener)) {
    sysread($connection, my $data, 100);
    open(my $file, '<', '/pfs/in/a') or die;
    syswrite($connection, <$file> . ':' . $data);
    close($connection);
}
";

fn has_network_of_its_own() -> bool {
    let own = matches!(isolation(), Isolation::Root | Isolation::UserNamespace);
    if !own {
        println!("this machine lets this user make no network namespace: nothing to test");
    }
    own
}

fn with_port(command: &[&str]) -> Datum {
    let mut datum = Datum::new(command);
    // Longer than the name of a socket may be.
    let long = datum.directory.path().join("d".repeat(120));
    std::fs::create_dir(&long).expect("a directory");
    datum.run.port = Some(Port {
        number: 8000,
        socket: long.join("door"),
    });
    datum
}

#[test]
fn a_port_of_a_network_of_its_own_is_reached_through_its_door() {
    if !has_network_of_its_own() {
        return;
    }
    let datum = with_port(&["/usr/bin/perl", "-e", ECHO]);
    let door = datum.run.port.clone().expect("a port").socket;
    let running = datum.start();
    eventually("somebody to listen", || connect(&door).is_ok());
    let ask = |text: &str| {
        let mut connection = connect(&door).expect("a connection");
        connection
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        connection.write_all(text.as_bytes()).expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).map(|_| answer)
    };
    // The first one may have met the connection that only knocked.
    assert_eq!(ask("hello").expect("an answer"), "input:hello");
    assert_eq!(ask("again").expect("an answer"), "input:again");
    running.kill();
    running.wait();
    assert!(connect(&door).is_err());
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    if !has_network_of_its_own() {
        return;
    }
    let datum = with_port(&["/bin/sleep", "60"]);
    let door = datum.run.port.clone().expect("a port").socket;
    let running = datum.start();
    eventually("the door to be there", || door.exists());
    let refused = connect(&door).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    running.kill();
    running.wait();
}

#[test]
fn a_port_of_the_hosts_own_network_is_refused() {
    let mut datum = with_port(&["/bin/true"]);
    datum.run.network = Network::Host;
    let refused = spawn(&binary(), datum.isolation, &datum.run).expect_err("no port without a network of its own");
    assert!(matches!(refused, SpawnError::BadRun(_)), "{refused}");
}
