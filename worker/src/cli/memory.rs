//! The memory that a CPU worker renders in: the machine's, or what the worker's control group may have of it, as in a
//! container or below a service manager.

use std::path::{Path, PathBuf};

/// Where control groups are, by custom.
const GROUPS: &str = "/sys/fs/cgroup";

/// In bytes; 0 if the kernel does not say.
pub fn of_machine() -> u64 {
    let facts = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = facts.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let machine = kibibytes.unwrap_or(0) << 10;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit(&groups, Path::new(GROUPS)).map_or(machine, |limit| limit.min(machine))
}

/// The least that the groups of a process, as `/proc/self/cgroup` names them, and those above them may have.
fn limit(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (kinds, path) = (fields.next()?, fields.next()?);
        // The second version has one tree and names no kinds.
        let (root, file) = match kinds {
            "" => (root.to_owned(), "memory.max"),
            _ if kinds.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the path may be that of the host, of which only the root is there.
        let group: PathBuf = root.join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|above| above.starts_with(&root));
        above.filter_map(|group| bytes(&group.join(file))).min()
    });
    limits.min()
}

fn bytes(file: &Path) -> Option<u64> {
    // Without a limit it says `max`, or a number that no machine has.
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a worker in a container does not announce its host's memory.
    #[test]
    fn a_group_may_have_less_than_the_machine() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().expect("has one")).expect("makes");
            std::fs::write(file, text).expect("writes");
        };
        let at = |groups: &str| limit(groups, root.path());
        assert_eq!(at("0::/a.slice/b.service\n"), None);
        write("a.slice/b.service/memory.max", "max\n");
        assert_eq!(at("0::/a.slice/b.service\n"), None);
        write("a.slice/memory.max", "4096\n");
        assert_eq!(at("0::/a.slice/b.service\n"), Some(4096));
        write("a.slice/b.service/memory.max", "1024\n");
        assert_eq!(at("0::/a.slice/b.service\n"), Some(1024));
        // A container sees its own group as the root.
        write("memory.max", "512\n");
        assert_eq!(at("0::/\n"), Some(512));
        let first = "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/\n";
        assert_eq!(at(first), None);
        write("memory/memory.limit_in_bytes", "2048\n");
        assert_eq!(at(first), Some(2048));
        assert_eq!(at(""), None);
        assert!(of_machine() > 1 << 28);
    }
}
