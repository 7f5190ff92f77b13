//! What requests that fail leave in the bucket: nothing, so that room which was scarce is there again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use contract::problem::ProblemKind;

use crate::app::{App, archive};

pub const LIMIT: Duration = Duration::from_secs(20);

/// Bytes that do not repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub fn bucket(app: &App) -> PathBuf {
    let contract::config::StoreConfig::Local { directory } = &app.plane.config.store else {
        panic!("a local store");
    };
    directory.clone()
}

pub fn packs(app: &App) -> usize {
    std::fs::read_dir(bucket(app).join("packs")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_refused_leaves_no_packs() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"a file")]).await.ok();
    let before = packs(&app);

    let refused = app.put(&ada, "r", &[("a/b", &noise(1, 9 << 20))]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;

    // An archive that ends in the middle, as when the sender hangs up.
    let mut broken = archive(&[("b", &noise(2, 9 << 20))]);
    broken.truncate(8 << 20);
    let refused = app.call(&ada, "POST", "/v1/files?repo=r", Body::from(broken)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;

    app.put(&ada, "r", &[("b", &noise(2, 9 << 20))]).await.ok();
    assert!(packs(&app) > before);
}

/// A small disk of its own over a directory; only root can make one.
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    pub fn over(directory: &'a Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        nix::mount::mount(
            Some("tmpfs"),
            directory,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .ok()?;
        for name in ["packs", "tmp"] {
            std::fs::create_dir(directory.join(name)).unwrap();
        }
        Some(Self(directory))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_what_did_not_fit_takes_no_room() {
    let app = App::start().await;
    let directory = bucket(&app);
    let Some(_disk) = SmallDisk::over(&directory, "48m") else {
        eprintln!("left out: only root can mount a small disk");
        return;
    };
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("kept", &noise(1, 6 << 20))]).await.ok();
    let before = packs(&app);

    for attempt in 0..3 {
        let refused = app.put(&ada, "r", &[("large", &noise(10 + attempt, 90 << 20))]).await;
        refused.refused(ProblemKind::StorageFull);
        testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;
    }

    app.put(&ada, "r", &[("small", &noise(3, 6 << 20))]).await.ok();
    assert_eq!(app.cat(&ada, "r@main", "kept").await.ok().body, noise(1, 6 << 20));
    assert_eq!(app.cat(&ada, "r@main", "small").await.ok().body, noise(3, 6 << 20));
}
