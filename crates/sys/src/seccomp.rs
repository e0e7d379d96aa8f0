//! System call filters: an allow-list per kind of process, which nothing can widen once it is installed (seccomp(2)).

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// System calls that every program of ours and every VMM needs: memory, threads, time, signals, and descriptors that are open already.
pub const COMMON: &[i64] = &[
    libc::SYS_arch_prctl,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
    // On sockets that are open already.
    libc::SYS_accept4,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Condition on an argument of a system call: its bits in `mask` are `value`.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// Number of the system call.
    pub call: i64,
    /// Index of the argument, from 0.
    pub argument: u8,
    /// Bits to compare.
    pub mask: u64,
    /// Their value.
    pub value: u64,
}

/// Allow-list of system calls. All others fail with `EPERM`.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// System calls besides [`COMMON`].
    pub allowed: &'a [i64],
    /// System calls that are allowed if one of their conditions holds.
    pub conditional: &'a [Condition],
    /// `fallocate` may punch holes and nothing else: other modes fail with `EOPNOTSUPP`, as on a file system that cannot.
    pub punch_holes: bool,
}

/// Condition under which `clone` makes a thread of this process, and not another process.
const NEW_THREAD: Condition = Condition {
    call: libc::SYS_clone,
    argument: 0,
    mask: libc::CLONE_THREAD as u64,
    value: libc::CLONE_THREAD as u64,
};

/// Installs `policy` on the calling thread and all that it starts. The process must have a single thread.
///
/// # Errors
/// Fails if the kernel has no seccomp, or refuses the filter.
pub fn install(policy: Policy<'_>) -> io::Result<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        COMMON.iter().chain(policy.allowed).map(|call| (*call, Vec::new())).collect();
    for condition in policy.conditional.iter().chain([&NEW_THREAD]) {
        rules.entry(condition.call).or_default().push(condition.rule()?);
    }
    // Its flags lie in memory, where a filter cannot see them. Programs then take `clone`.
    rules.insert(libc::SYS_clone3, Vec::new());
    let refuse = |call, rules, error| compile([(call, rules)].into(), SeccompAction::Allow, errno(error));
    let mut filters = vec![refuse(libc::SYS_clone3, Vec::new(), libc::ENOSYS)?];
    if policy.punch_holes {
        rules.insert(libc::SYS_fallocate, Vec::new());
        let mode = (libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE) as u64;
        let other = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, mode)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(io::Error::other)?;
        filters.push(refuse(libc::SYS_fallocate, vec![other], libc::EOPNOTSUPP)?);
    }
    filters.push(compile(rules, errno(libc::EPERM), SeccompAction::Allow)?);
    filters.iter().try_for_each(|filter| apply_filter(filter)).map_err(io::Error::other)
}

impl Condition {
    fn rule(&self) -> io::Result<SeccompRule> {
        let operator = SeccompCmpOp::MaskedEq(self.mask);
        SeccompCondition::new(self.argument, SeccompCmpArgLen::Qword, operator, self.value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(io::Error::other)
    }
}

/// Returns a filter with the action for calls that match no rule, and that for those that match one.
fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    matches: SeccompAction,
) -> io::Result<BpfProgram> {
    SeccompFilter::new(rules, others, matches, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}
