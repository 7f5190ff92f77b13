//! Takes an upload up again that broke off. Which one it was is remembered in a small file beside the credentials, under the
//! name of what was put where; what the service holds of it, the service says.

use std::fs::File;
use std::path::PathBuf;

use contract::api::{Commit, NewUpload, Upload};
use contract::ids::UploadId;
use serde::{Deserialize, Serialize};

use super::handover::Handover;
use super::parts::{self, Part};
use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::files_of_ours::{make_private_directory, open_lock, read_json, write_json};
use crate::output::{Output, size};
use crate::references::Place;

/// What is put where.
pub(super) struct Wish<'a> {
    pub(super) target: &'a Place,
    /// As they were given.
    pub(super) sources: &'a [String],
    pub(super) recursive: bool,
    pub(super) message: &'a str,
    /// Whatever there is of it, from the beginning.
    pub(super) anew: bool,
}

/// An upload that becomes one commit however often it is sent.
pub(super) struct Session {
    pub(super) id: UploadId,
    /// Who takes large files without their bytes being sent.
    pub(super) handover: Option<Handover>,
    /// The service is to keep parts of it on the way, so that it can be taken up again where it broke.
    pub(super) keeps: bool,
    /// Large files may go straight into the bucket.
    pub(super) takes_packs: bool,
    memory: Option<Memory>,
}

/// How an upload goes on.
pub(super) enum Taken {
    Up(Session),
    /// It had arrived: only the answer was lost.
    Made(Box<Commit>),
}

/// Held while the upload runs: who puts the same to the same place at the same time has an upload of his own.
struct Memory {
    path: PathBuf,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    upload: UploadId,
    /// What it was an upload of.
    contents: String,
}

fn request(method: fn(String) -> Request, id: UploadId) -> Request {
    method(format!("/v1/uploads/{id}"))
}

/// Goes on with what is there of this upload, or begins it.
pub(super) async fn take_up(client: &Client, wish: &Wish<'_>, parts: &mut [Part], output: Output) -> Outcome<Taken> {
    let memory = Memory::of(client, wish).await;
    let contents = parts::digest(parts, wish.message);
    let remembered: Option<Remembered> = memory.as_ref().and_then(|memory| read_json(&memory.path));
    if let Some(Remembered {
        upload,
        contents: before,
    }) = remembered
    {
        if wish.anew {
            // Where it is not there any more nothing is to be given up.
            let _ = client.plane_done(request(Request::delete, upload)).await;
        } else if let Ok(found) = client.plane::<Upload>(request(Request::get, upload)).await {
            match found.commit {
                None => {
                    let total = parts.iter().map(|part| part.bytes).sum();
                    let there = parts::note(parts, &found.parts);
                    if there > 0 {
                        let (there, total) = (size(there), size(total));
                        output.hint(&format!(
                            "continuing an interrupted upload: {there} of {total} are there already"
                        ));
                    }
                    return Ok(Taken::Up(Session {
                        id: upload,
                        handover: found.handover.map(Handover::to),
                        keeps: true,
                        takes_packs: found.takes_packs,
                        memory,
                    }));
                }
                Some(commit) if before == contents => {
                    if let Some(memory) = memory {
                        memory.forget();
                    }
                    return Ok(Taken::Made(Box::new(commit)));
                }
                Some(_) => {}
            }
        }
    }
    let session = Session {
        keeps: true,
        memory,
        ..begin(client, wish.target).await?
    };
    if let Some(memory) = &session.memory {
        let remembered = Remembered {
            upload: session.id,
            contents,
        };
        // Without it the upload goes on all the same.
        let _ = write_json(&memory.path, &remembered);
    }
    Ok(Taken::Up(session))
}

/// Begins an upload of which no parts are kept. One that nobody knows of does no harm.
///
/// # Errors
/// What the service answers.
pub(super) async fn begin(client: &Client, target: &Place) -> Outcome<Session> {
    let body = NewUpload {
        repo: target.repo.clone(),
        branch: Some(target.branch.clone()),
    };
    let request = Request::post("/v1/uploads").body(&body)?.repeatable();
    let begun: Upload = client.plane_directly(&request).await?;
    Ok(Session {
        id: begun.id,
        handover: begun.handover.map(Handover::to),
        takes_packs: begun.takes_packs,
        keeps: false,
        memory: None,
    })
}

impl Session {
    /// Asks what has arrived; answers how many bytes, or the commit that it has become.
    pub(super) async fn look(&self, client: &Client, parts: &mut [Part]) -> Outcome<Result<u64, Box<Commit>>> {
        let found: Upload = client.plane(request(Request::get, self.id)).await?;
        Ok(match found.commit {
            Some(commit) => Err(Box::new(commit)),
            None => Ok(parts::note(parts, &found.parts)),
        })
    }

    /// It is over.
    pub(super) fn forget(self) {
        if let Some(memory) = self.memory {
            memory.forget();
        }
    }
}

impl Memory {
    async fn of(client: &Client, wish: &Wish<'_>) -> Option<Self> {
        let mut name = blake3::Hasher::new();
        let target = wish.target;
        let mut add = |text: &str| {
            name.update(&(text.len() as u64).to_le_bytes());
            name.update(text.as_bytes());
        };
        for text in [
            client.settings.url.as_str(),
            &client.organization().await.ok()?,
            &target.repo,
            target.branch.as_str(),
            target.path.as_deref().unwrap_or_default(),
            if wish.recursive { "recursive" } else { "" },
        ] {
            add(text);
        }
        for source in wish.sources {
            add(std::path::absolute(source).ok()?.to_str()?);
        }
        let directory = client.settings.config.join("uploads");
        make_private_directory(&directory).ok()?;
        let name = name.finalize().to_hex();
        let lock = open_lock(&directory.join(format!("{}.lock", &name[..32]))).ok()?;
        lock.try_lock().ok()?;
        Some(Self {
            path: directory.join(format!("{}.json", &name[..32])),
            _lock: lock,
        })
    }

    fn forget(self) {
        let _ = std::fs::remove_file(&self.path);
        // The lock's file goes while it is held. Somebody who opened it before gets a lock that nobody asks for: two
        // uploads of the same then, and both arrive.
        let _ = std::fs::remove_file(self.path.with_extension("lock"));
    }
}
