use std::path::Path;

use super::*;

/// A "Python" that is a shell script, told what it says and does.
fn settings(dir: &Path, script: &str) -> EngineSettings {
    use std::os::unix::fs::PermissionsExt as _;
    let python = dir.join("python");
    std::fs::write(&python, format!("#!/bin/bash\n{script}\n")).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    EngineSettings {
        count: 1,
        python,
        imports: Vec::new(),
        dir: dir.to_owned(),
        profile: dir.join("profile"),
        user: None,
        memory_limit: None,
        nice: 0,
        revive: false,
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let options = tokio::runtime::LocalOptions::default();
    let runtime = runtime.enable_all().build_local(options).unwrap();
    runtime.block_on(test);
}

async fn until(engines: &Engines, what: impl Fn(&Status) -> bool) -> Status {
    let mut status = engines.status();
    let waiting = status.wait_for(|status| what(status));
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.expect("in time").unwrap().clone()
}

#[test]
fn a_python_that_fails_is_tried_again_and_its_last_words_tell_why() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let engines = Engines::start(settings(dir.path(), "echo no module >&2; exit 3")).unwrap();
        let status = until(&engines, |s| s.failures >= 2).await;
        let trouble = status.hopeless(2).unwrap();
        assert!(trouble.contains("exit status: 3"), "{trouble}");
        engines.stop(GRACE, std::future::pending()).await;
    });
}

#[test]
fn a_python_that_does_not_exist_is_named() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path(), "");
        settings.python = dir.path().join("nowhere");
        let engines = Engines::start(settings).unwrap();
        let status = until(&engines, |s| s.failures >= 1).await;
        assert!(status.trouble.unwrap().contains("nowhere"));
        engines.stop(GRACE, std::future::pending()).await;
    });
}

#[test]
fn nonsense_from_the_warm_parent_ends_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        // The descriptor of the socket is the third argument.
        let script = "echo nonsense >&$3; sleep 1000";
        let engines = Engines::start(settings(dir.path(), script)).unwrap();
        let status = until(&engines, |s| s.failures >= 1).await;
        assert!(status.trouble.unwrap().contains("nobody understands"));
        engines.stop(GRACE, std::future::pending()).await;
    });
}

#[test]
fn stopping_ends_a_parent_that_does_not_listen_and_what_it_has_started() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let script = format!(
            "trap '' TERM; setsid sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; while :; do sleep 1; done",
            file.display()
        );
        let engines = Engines::start(settings(dir.path(), &script)).unwrap();
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pid = std::fs::read_to_string(&file).unwrap();
        engines.stop(GRACE, std::future::ready(())).await;
        assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists());
    });
}
