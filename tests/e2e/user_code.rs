//! What user code must not see, tried from inside a pipeline (I5, I9).

use super::harness::Service;

#[test]
fn user_code_sees_its_inputs_and_nothing_of_the_service_or_of_others() {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "input"]);
    let file = service.file("a.txt", b"the input\n");
    person.run(&["put", "input@main", &file]);
    let home = service.home.path().to_string_lossy().into_owned();
    let port = service
        .listen
        .rsplit(':')
        .next()
        .expect("an address has a port")
        .to_owned();
    let probe = format!(
        "ls /pfs > /pfs/out/pfs; \
         cat /pfs/input/a.txt > /pfs/out/content; \
         (echo x >> /pfs/input/a.txt) 2>/dev/null && echo yes > /pfs/out/wrote-input; \
         ls {home} > /pfs/out/home 2>&1 && echo yes > /pfs/out/saw-home; \
         for d in /root /home/* /run /var/lib; do [ -n \"$(ls -A $d 2>/dev/null)\" ] && echo $d >> /pfs/out/saw-folders; done; \
         id -u > /pfs/out/uid; \
         grep -h CapEff /proc/self/status > /pfs/out/capabilities; \
         cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' ' > /pfs/out/processes; \
         env > /pfs/out/environment; \
         (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo yes > /pfs/out/reached-service; \
         find / -name '.s.PGSQL*' 2>/dev/null > /pfs/out/sockets; true"
    );
    let spec = serde_json::json!({
        "pipeline": {"name": "probe"},
        "transform": {"cmd": ["/bin/bash", "-c", probe]},
        "input": {"pfs": {"repo": "input", "glob": "/*"}},
    });
    let spec = service.file("spec.json", spec.to_string().as_bytes());
    person.run(&["pipeline", "apply", "-f", &spec]);
    person.run(&["wait", "probe@main", "--timeout", "2m"]);

    let read = |path: &str| person.run(&["cat", &format!("probe@main:/{path}")]);
    let files: Vec<String> = person
        .json_lines(&["ls", "probe@main"])
        .iter()
        .map(|f| f["path"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(read("pfs"), "input\nout\n");
    assert_eq!(read("content"), "the input\n");
    for tell_tale in ["/wrote-input", "/saw-home", "/saw-folders", "/reached-service"] {
        assert!(!files.contains(&tell_tale.to_owned()), "{tell_tale}: {files:?}");
    }
    assert_ne!(read("uid").trim(), "0");
    assert_eq!(read("capabilities").split_whitespace().nth(1), Some("0000000000000000"));
    assert!(
        !read("processes").contains("howdah-data-plane"),
        "{}",
        read("processes")
    );
    assert_eq!(read("sockets"), "");
    let environment = read("environment");
    assert!(environment.contains("HOWDAH_PIPELINE=default/probe"), "{environment}");
    for secret in ["hwd_", "postgres", "DATABASE", "HOWDAH_HOME", "HOWDAH_CONFIG"] {
        assert!(!environment.contains(secret), "{secret}: {environment}");
    }
}

#[test]
fn a_failing_datum_is_named_and_its_log_is_there_and_fixing_it_runs_one() {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "input"]);
    for n in 0..10 {
        service.file(&format!("input/{n}"), if n == 7 { b"bad\n" } else { b"good\n" });
    }
    person.run(&["put", "input@main", "input", "-r"]);
    let spec = r#"{"pipeline":{"name":"check"},"transform":{"cmd":["/bin/sh","-c","echo checking $input; grep good /pfs/input/* > /pfs/out/$(basename /pfs/input/*)"]},"datum_tries":1,"input":{"pfs":{"repo":"input","glob":"/*"}}}"#;
    let spec = service.file("spec.json", spec.as_bytes());
    person.run(&["pipeline", "apply", "-f", &spec]);

    let why = person.fails(5, &["wait", "check@main", "--timeout", "2m"]);
    assert!(why.contains("/7"), "the failed datum is named: {why}");
    let jobs = person.json(&["job", "list"]);
    let job = jobs
        .as_array()
        .or_else(|| jobs["items"].as_array())
        .map_or(jobs.clone(), |j| j[0].clone());
    assert_eq!(job["datums"]["failed"], 1, "{job}");
    assert_eq!(job["datums"]["succeeded"], 9, "the others ran all the same: {job}");
    let log = person.run(&["logs", job["id"].as_str().expect("a job has an id")]);
    assert!(log.contains("checking"), "{log}");

    let fixed = service.file("7", b"good now\n");
    let put = person.json(&["put", "input@main:/7", &fixed]);
    person.run(&[
        "wait",
        put["commit_set"].as_str().expect("a commit has a set"),
        "--timeout",
        "2m",
    ]);
    let jobs = person.json(&["job", "list"]);
    let job = jobs
        .as_array()
        .or_else(|| jobs["items"].as_array())
        .map_or(jobs.clone(), |j| j[0].clone());
    assert_eq!(job["datums"]["succeeded"], 1, "{job}");
    assert_eq!(job["datums"]["skipped"], 9, "{job}");
    assert_eq!(person.json_lines(&["ls", "check@main"]).len(), 10);
}
