//! One task per workspace, which owns all that this node has of it: record, disk, VM. It compares its target with what is there, and takes
//! one step towards it, until nothing is left to do; then it waits for a request, an event of the VM, or a time at which to try again. So
//! no two operations on a workspace ever run at once, and none depends on who asked for it.

mod boot;
mod disk;
mod end;
mod memory;
mod report;
mod state;
mod target;
#[cfg(test)]
mod tests;

use rigbox_core::lifecycle::{Desired, Step};
use rigbox_proto::node::WorkspaceReport;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::host::Host;
pub(crate) use state::{Change, Request, Workspace};
use state::{Wake, Work};

impl<H: Host> Workspace<H> {
    /// Runs the task until the workspace is deleted, or until nobody can send requests any more.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            if self.is_recorded {
                self.settle();
            }
            let wake = match requests.try_recv() {
                Ok(request) => Wake::Request(request),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => match self.due_work() {
                    Some(work) => Wake::Work(work),
                    None => self.wait(&mut requests).await,
                },
            };
            match wake {
                Wake::Request(request) => {
                    self.handle_request(request).await;
                    // A workspace that could not be written down is none.
                    if !self.is_recorded {
                        return;
                    }
                }
                // The node stops. VMs keep running.
                Wake::Closed => return,
                Wake::Work(Work::Step(Step::Delete)) => match self.delete().await {
                    Ok(()) => return,
                    Err(error) => self.retry("delete the workspace", &error),
                },
                Wake::Work(work) => self.perform(work).await,
                Wake::Event(event) => self.handle_event(event).await,
                Wake::CleanUp => {
                    let end = self.cleanup.take().and_then(|pending| pending.end);
                    self.clean_up(end).await;
                }
                Wake::Network => self.retry_network().await,
                Wake::Retry => self.retry_at = None,
                Wake::Ask => self.perform(Work::Step(Step::Boot)).await,
            }
        }
    }

    /// Returns the step that is next, whether or not it can be taken now.
    fn next_step(&self) -> Step {
        self.record.target.next_step(self.record.facts())
    }

    /// Returns the work that can be done now.
    fn due_work(&self) -> Option<Work> {
        if self.retry_at.is_some() {
            return None;
        }
        match self.next_step() {
            Step::Delete => Some(Work::Step(Step::Delete)),
            _ if !self.is_recovered => Some(Work::Recover),
            // A deletion that was taken back has killed it.
            _ if self.record.boot.is_some() && self.vm.is_none() && self.cleanup.is_none() => {
                Some(Work::CleanUp)
            }
            Step::Rest => None,
            // It is asked again when it may be admitted.
            Step::Boot if self.queue_place.is_some() => None,
            // It has ended, and is being cleaned up.
            Step::Stop if self.vm.is_none() => None,
            // Control has to tell how.
            Step::CreateDisk if self.record.spec.is_none() => None,
            step => Some(Work::Step(step)),
        }
    }

    async fn perform(&mut self, work: Work) {
        match work {
            Work::Recover => self.recover().await,
            Work::CleanUp => self.clean_up_killed().await,
            Work::Step(Step::CreateDisk) => self.create_disk().await,
            Work::Step(Step::Boot) => self.boot().await,
            Work::Step(Step::Stop) => self.stop().await,
            Work::Step(Step::Rest | Step::Delete) => {}
        }
        if self.retry_at.is_none() {
            self.logged_error.clear();
        }
    }

    async fn handle_request(&mut self, Request { change, reply }: Request) {
        let (action, set) = match change {
            Change::Target(request) => ("set the target", self.set_target(*request).await),
            Change::Paused { boot_id, paused } => ("pause the VM", self.set_paused(&boot_id, paused).await),
        };
        // Control asks again each second, and waits meanwhile.
        if let Err(error) = &set {
            self.log_retried(action, error);
        }
        // Published first, so that the answer is one of the numbered reports. A caller that has stopped waiting is fine.
        let _ = reply.send(set.map(|()| self.settle()));
    }

    /// Gives up what the target does not need any more, and publishes the current state. Returns the report.
    fn settle(&mut self) -> WorkspaceReport {
        if self.next_step() != Step::Boot {
            self.leave_queue();
        }
        self.publish()
    }

    /// Returns whether the target is that nothing is left.
    fn is_deleted(&self) -> bool {
        self.record.target.state == Desired::Deleted
    }
}
