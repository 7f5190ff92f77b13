//! Putting large files: only what is new is sent.

use super::harness::{Service, eventually, text};

/// Bytes that do not repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn of_a_file_that_changed_a_little_only_that_is_sent() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "things"]);
    let old = noise(1, 64 << 20);
    let large = service.file("large", &old);
    let first = ada.json(&["put", "things@main:/d/large", &large]);
    assert_eq!(first["sent_bytes"], 64 << 20);
    assert_eq!(first["files"], 1);

    let mut new = old.clone();
    new.insert(20_000_000, b'x');
    let large = service.file("large", &new);
    let second = ada.json(&["put", "things@main:/d/large", &large]);
    let sent = second["sent_bytes"].as_u64().expect("a number");
    assert!(sent < 1 << 20, "{sent} bytes were sent");
    assert_eq!(second["parent"], first["id"]);
    assert_eq!(second["provenance"], serde_json::json!([]));
    let got = service.files.path().join("got");
    ada.run(&["get", "things@main:/d/large", "-o", &got.to_string_lossy()]);
    assert!(std::fs::read(&got).expect("it is there") == new);

    // By standard input, among others, and as it is.
    let output = ada.run_with(["put", "things@main:/d/large", "-"], &old, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("saved 99."), "{}", text(&output.stderr));
    let folder = service.files.path().join("folder");
    std::fs::create_dir(&folder).expect("a folder can be made");
    std::fs::write(folder.join("large"), &old).expect("it can be written");
    std::fs::write(folder.join("new"), noise(2, 3 << 20)).expect("it can be written");
    let output = ada.attempt(&["put", "things@main:/d", &folder.to_string_lossy(), "-r"]);
    let said = text(&output.stderr);
    assert!(said.contains("sent 3.00 MiB of 67.00 MiB (saved 95.5 %)"), "{said}");
    assert_eq!(ada.run(&["ls", "things@main:/d"]).lines().count(), 2);

    // What is put behind what is there is all new.
    let appended = ada.json(&["put", "things@main:/d/large", "--append", &large]);
    assert_eq!(appended["sent_bytes"], (64 << 20) + 1);
}

#[test]
fn an_upload_whose_command_was_killed_is_continued_by_the_same_command() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "things"]);
    let folder = service.files.path().join("folder");
    std::fs::create_dir(&folder).expect("a folder can be made");
    for n in 0..3 {
        std::fs::write(folder.join(format!("a{n}")), noise(n, 20 << 20)).expect("it can be written");
    }
    let large = folder.join("large");
    let folder = folder.to_string_lossy().into_owned();
    let uploads = ada.config().join("uploads");
    let remembered = || {
        let entries = std::fs::read_dir(&uploads).ok()?;
        let mut found = entries.flatten().map(|entry| entry.path());
        let path = found.find(|path| path.extension().is_some_and(|e| e == "json"))?;
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).ok()?).ok()
    };
    // On a fast disk all of it may be stored before the command is killed: then once more, with other bytes.
    let interrupted = (0..3).find_map(|attempt| {
        std::fs::write(&large, noise(9 + attempt, 400 << 20)).expect("it can be written");
        let to = format!("things@try{attempt}:/d");
        let before = service.packs();
        let mut child = ada.spawn(&["put", &to, &folder, "-r"]);
        // The first part is what stands before the large file, the next ones are pieces of that.
        eventually("some of it is stored", || {
            let ended = child.try_wait().expect("it can be asked").is_some();
            ended || remembered().is_some() && service.packs() > before + 6
        });
        let begun = remembered();
        let _ = child.kill();
        child.wait().expect("it ends");
        let nothing_put = ada.attempt(&["log", to.trim_end_matches(":/d")]).status.code() == Some(3);
        begun.filter(|_| nothing_put).map(|begun| (to, begun))
    });
    let (to, begun) = interrupted.expect("one of three commands is killed before it is done");

    let output = ada.attempt(&["put", &to, &folder, "-r"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("continuing an interrupted upload: ") && said.contains("are there already"),
        "{said}"
    );
    assert!(remembered().is_none(), "it is over: {begun}");
    let got = service.files.path().join("got");
    ada.run(&["get", &format!("{to}/large"), "-o", &got.to_string_lossy()]);
    assert!(std::fs::read(&got).expect("it is there") == std::fs::read(&large).expect("it is there"));
    assert_eq!(ada.json_lines(&["ls", &to]).len(), 4);
}
