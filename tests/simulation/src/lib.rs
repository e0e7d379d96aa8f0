//! Simulation of control and a node. The real reconciler, database and tasks of the node run on one thread with a paused clock, above a
//! simulated machine and a simulated network, through random histories: requests, crashes of any side between any two steps, lost, late,
//! doubled and reordered messages, failed writes, jumps of the clock, restored backups, lost journals and disks. After each history
//! everything calms down, and what was acknowledged, what is observed and what is real have to agree.
//!
//! One seed is one history. `RIGBOX_SIMULATION_SEED=7 cargo test -p rigbox-simulation` prints the trace of that one.

#[cfg(test)]
mod control;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod history;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod world;
