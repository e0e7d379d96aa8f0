//! Load on a proxy by one thread: as much as it takes, or by a schedule whatever it takes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::connection::Connections;
use super::message::{self, Kind};

/// Limit for the last responses.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections before the first call of a schedule.
const SCHEDULE_CONNECTIONS: usize = 32;
/// Seed of the schedule, which is the same for all.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// Makes one call.
pub(super) fn call_once(address: SocketAddr) -> Result<()> {
    saturate(address, 1, Duration::ZERO).map(drop)
}

/// Makes calls on `connections` at once, on each the next when the last is answered, until `duration` is over. Returns their number.
pub(super) fn saturate(address: SocketAddr, connections: usize, duration: Duration) -> Result<u32> {
    let request = message::request(Kind::Document);
    let mut open = Connections::new()?;
    for _ in 0..connections {
        let index = open.open(address)?;
        open.send(index, &request)?;
    }
    let (started, mut busy, mut answered) = (Instant::now(), connections, 0);
    while busy > 0 {
        let whole = open.wait(READ_TIMEOUT)?;
        check_progress(started.elapsed(), duration)?;
        for index in whole {
            answered += 1;
            if started.elapsed() < duration {
                open.send(index, &request)?;
            } else {
                open.close(index);
                busy -= 1;
            }
        }
    }
    Ok(answered)
}

/// Makes `per_second` calls for `duration`, each at its time and on an idle connection, whatever the answers to others take. Returns the
/// milliseconds from that time to the whole answer, of each.
pub(super) fn by_schedule(address: SocketAddr, per_second: f64, duration: Duration) -> Result<Vec<f64>> {
    let request = message::request(Kind::Document);
    let mut open = Connections::new()?;
    let mut idle = VecDeque::new();
    for _ in 0..SCHEDULE_CONNECTIONS {
        idle.push_back(open.open(address)?);
    }
    let mut waiting = schedule(per_second, duration);
    let (started, mut busy, mut latencies) = (Instant::now(), HashMap::new(), Vec::new());
    while !(waiting.is_empty() && busy.is_empty()) {
        let now = started.elapsed();
        if let Some(due) = waiting.pop_front_if(|due| *due <= now) {
            let index = idle.pop_front().map_or_else(|| open.open(address), Ok)?;
            open.send(index, &request)?;
            busy.insert(index, due);
            continue;
        }
        let until_next = waiting.front().map_or(READ_TIMEOUT, |due| *due - now);
        let whole = open.wait(until_next)?;
        let now = started.elapsed();
        check_progress(now, duration)?;
        for index in whole {
            if let Some(due) = busy.remove(&index) {
                latencies.push((now - due).as_secs_f64() * 1e3);
            }
            idle.push_back(index);
        }
    }
    Ok(latencies)
}

fn check_progress(elapsed: Duration, duration: Duration) -> Result<()> {
    anyhow::ensure!(
        elapsed < duration + READ_TIMEOUT,
        "calls are not answered in {} s",
        READ_TIMEOUT.as_secs()
    );
    Ok(())
}

/// Returns times of calls that come independently of each other: the gaps are distributed exponentially.
fn schedule(per_second: f64, duration: Duration) -> VecDeque<Duration> {
    let (mut state, mut at, mut times) = (SEED, 0.0, VecDeque::new());
    loop {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let share = ((state >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        at -= share.ln() / per_second;
        if at > duration.as_secs_f64() {
            return times;
        }
        times.push_back(Duration::from_secs_f64(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_has_as_many_calls_as_its_rate() {
        let times = schedule(500.0, Duration::from_secs(20));
        assert!((9_500..10_500).contains(&times.len()), "{}", times.len());
        assert!(times.iter().is_sorted());
        assert!(*times.back().unwrap() <= Duration::from_secs(20));
    }
}
