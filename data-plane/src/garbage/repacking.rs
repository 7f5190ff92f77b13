//! What a collection does about packs of which little is needed, and about what leads to packs that are gone.

use storage::{PackInfo, SparsePack};

use super::Sweep;
use crate::failure::{Answer, Failure};

/// So much is copied before the packs that it came from are done with: what fails then costs no more.
const TOGETHER_BYTES: u64 = 48 << 20;
const TOGETHER_PACKS: usize = 256;
/// So many packs may fail to be read: it is them, and not the store.
const FAILURES_MAX: usize = 3;

impl Sweep<'_> {
    /// Counts a pack that stays sparse.
    pub(super) fn count_sparse(&mut self, pack: &PackInfo) {
        self.report.sparse_packs += 1;
        self.report.sparse_bytes += pack.size_bytes - self.marking.bytes_of(pack.id);
    }

    /// Removes forwards that lead nowhere: every pack that they lead to was found unneeded twice, so nothing that is
    /// needed is found through them.
    pub(super) async fn drop_forwards(&self) -> Answer<()> {
        let storage = &self.plane.storage;
        for name in storage.forwards().await? {
            match storage.forward_packs(name).await {
                Ok(packs) if packs.iter().any(|pack| self.present.contains(pack)) => {}
                Ok(_) if self.dry_run => {}
                Ok(_) => storage.remove_forward(name).await?,
                // Nothing that is needed is found through it, else the marking would have failed. A check tells of it.
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Copies what is needed of sparse packs. That it fails, for want of room above all, makes the collection no failure:
    /// garbage was removed, and what leads where is whole whichever step was the last.
    pub(super) async fn repack(&mut self) {
        let mut together: Vec<SparsePack> = Vec::new();
        let (mut failures, mut copying) = (0, true);
        for info in std::mem::take(&mut self.sparse) {
            if !copying || failures >= FAILURES_MAX {
                self.count_sparse(&info);
                continue;
            }
            let (storage, is_purged) = (&self.plane.storage, self.purged.contains(&info.id));
            let found = match is_purged {
                true => storage.purged_pack(self.marking, info).await,
                false => storage.sparse_pack(self.marking, info).await,
            };
            match found {
                Ok(Some(pack)) => together.push(pack),
                // What was purged from it was stored again since.
                Ok(None) if is_purged => {}
                Ok(None) => self.count_sparse(&info),
                Err(error) => {
                    failures += 1;
                    self.repacking_failed(&error.into());
                    self.count_sparse(&info);
                }
            }
            let bytes: u64 = together.iter().map(SparsePack::live_bytes).sum();
            if bytes >= TOGETHER_BYTES || together.len() >= TOGETHER_PACKS {
                copying = self.copy(std::mem::take(&mut together)).await;
            }
        }
        self.copy(together).await;
    }

    fn repacking_failed(&mut self, failure: &Failure) {
        tracing::warn!(error = %failure, "sparse packs were not repacked: {failure}");
        self.report.repacking_failed = Some(failure.detail().to_owned());
    }

    /// Copies what is needed of these. First no put is led to them any more: once what they had is found by forwards, it
    /// is the packs that those lead to which are condemned.
    async fn move_on(&self, packs: &[SparsePack]) -> Answer<u64> {
        let ids: Vec<_> = packs.iter().map(SparsePack::id).collect();
        self.no_sample_leads_to(&ids).await?;
        Ok(self.plane.storage.repack(self.marking, packs).await?)
    }

    /// Copies what is needed of these; false when it failed.
    async fn copy(&mut self, packs: Vec<SparsePack>) -> bool {
        let live = packs.iter().map(SparsePack::live_bytes).sum();
        let copied = match self.dry_run {
            true => Ok(live),
            false => self.move_on(&packs).await,
        };
        match copied {
            Ok(bytes) => {
                self.report.repacked_packs += packs.len() as u64;
                self.report.repacked_bytes += packs.iter().map(SparsePack::size_bytes).sum::<u64>();
                self.report.copied_bytes += bytes;
                true
            }
            Err(error) => {
                self.repacking_failed(&error);
                self.report.sparse_packs += packs.len() as u64;
                self.report.sparse_bytes += packs
                    .iter()
                    .map(|pack| pack.size_bytes() - pack.live_bytes())
                    .sum::<u64>();
                false
            }
        }
    }
}
