//! Steps that change the disk: its creation, and the removal of everything.

use super::state::Workspace;
use crate::error::Error;
use crate::host::Host;
use crate::record::Phase;
use crate::reports::absent;

impl<H: Host> Workspace<H> {
    pub(super) async fn create_disk(&mut self) {
        let Some(spec) = &self.record.spec else { return };
        let size_mb = self.record.disk_size_mb;
        let image_version = match self.host.create_disk(&self.id, &spec.image, size_mb).await {
            Ok(version) => version,
            Err(error) => return self.refuse("create the disk", &error).await,
        };
        let created = |record: &mut crate::record::Record| {
            record.image_version = image_version;
            record.phase = Phase::Provisioned;
        };
        if let Err(error) = self.update(created).await {
            self.retry("write the journal", &error);
        }
    }

    /// Removes everything, and reports that to control.
    pub(super) async fn delete(&mut self) -> Result<(), Error> {
        if let Some(boot) = &self.record.boot {
            self.host.detach(&boot.boot_id);
        }
        self.kill().await?;
        self.cleanup = None;
        self.host.tear_down(&self.id).await?;
        self.host.remove_disk(&self.id).await?;
        self.host.forget_memory(&self.id).await?;
        self.host.remove_record(&self.id).await?;
        tracing::info!(workspace = %self.id, "workspace deleted");
        self.host.reports().publish(absent(&self.id, self.record.target.generation));
        Ok(())
    }
}
