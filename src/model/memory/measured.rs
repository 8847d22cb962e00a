//! What the process holds in memory, as the system counts it, and what it may hold.

/// The most that was resident at one time, in bytes; `None` where the system does not say.
#[must_use]
pub fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM")
}

/// What is resident now, in bytes; `None` where the system does not say.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS")
}

/// What bounds the memory of this process, and by how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The bytes.
    pub bytes: u64,
    /// What says so.
    pub by: &'static str,
}

/// The machine's memory, or the limit of the control group that the process is in (a container, a batch job), if that is
/// less; `None` where the system says neither.
#[must_use]
pub fn memory_limit() -> Option<MemoryLimit> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let of_group = group_limit_files(&groups).into_iter().filter_map(|file| read(&file)?.trim().parse().ok());
    let machine = read("/proc/meminfo").and_then(|text| kibibytes(&text, "MemTotal"));
    let machine = machine.map(|bytes| MemoryLimit { bytes, by: "the machine has" });
    let group = of_group.min().map(|bytes| MemoryLimit { bytes, by: "the process's control group allows" });
    machine.into_iter().chain(group).min_by_key(|limit| limit.bytes)
}

/// The files that may hold the limit of a process with this `/proc/self/cgroup`: those of its groups and of all groups
/// around them, of either version of the interface. A limit that is not set is a word or larger than any machine.
fn group_limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            controllers if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{name}"));
            let Some((around, _)) = path.rsplit_once('/') else { break };
            path = around;
        }
    }
    files
}

/// A line of `/proc/self/status`.
fn status_bytes(line: &str) -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, line)
}

/// The bytes of a line like `VmRSS:   512 kB`.
fn kibibytes(text: &str, line: &str) -> Option<u64> {
    let kibibytes = text.lines().find_map(|text| {
        text.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    Some(kibibytes? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_looked_for_in_all_groups_around_the_process() {
        assert_eq!(
            group_limit_files("0::/a.slice/b.scope\n"),
            [
                "/sys/fs/cgroup/a.slice/b.scope/memory.max",
                "/sys/fs/cgroup/a.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        let old = "5:cpu,cpuacct:/x\n4:memory:/job\n";
        let files = ["/job", ""].map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
        assert_eq!(group_limit_files(old), files);
        assert_eq!(group_limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn this_machine_has_memory() {
        let limit = memory_limit().expect("Linux says it");
        assert!(limit.bytes > 64 << 20, "{limit:?}");
        assert_eq!(kibibytes("MemTotal:       16 kB\n", "MemTotal"), Some(16 * 1024));
    }
}
